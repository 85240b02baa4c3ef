// What a person can do with a run, for the panel of its node and for the list of runs.

import { app } from "../../../scripts/app.js";
import { wanted, wantedRun } from "../listen/request.js";
import { t } from "../words.js";
import { continueRun, finishRun, pauseRun, previewRun, saveRun, stopRun } from "./server.js";

const GAP = 40; // between nodes, in the canvas's pixels

/** Statuses of a run that is being trained. */
export const UNDER_WAY = new Set(["running", "stopping", "paused"]);

/**
 * Controls of a training under way, by the order of their buttons: `fits(status)` says whether one can be used now,
 * `send(id)` asks the server, which does it after the step in hand.
 */
export const controls = () => [
  { id: "preview", label: t("Preview now"), title: t("Generate a preview with the adapter so far, then go on"),
    fits: (status) => status === "running", send: previewRun },
  { id: "save", label: t("Save now"), title: t("Put the adapter so far into your LoRA list, then go on"),
    fits: (status) => status === "running", send: saveRun },
  { id: "finish", label: t("Finish now"), title: t("End the training here, as if this were its last step"),
    fits: (status) => status === "running" || status === "paused", send: finishRun },
  { id: "pause", label: t("Pause"), title: t("Leave the graphics card to other work, and go on later"),
    fits: (status) => status === "running", send: pauseRun },
  { id: "continue", label: t("Continue"), title: t("Go on with the training"),
    fits: (status) => status === "paused", send: continueRun },
  { id: "stop", label: t("Stop"), title: t("Stop and keep the adapter so far; Run continues later"),
    fits: (status) => status === "running" || status === "paused", send: stopRun },
];

/**
 * Add Load Adapter with this file, and Apply Adapter behind it, right of a node (or in the middle of the view), and
 * select them; nothing else is connected to them.
 */
export async function useAdapter(file, beside = null) {
  await app.refreshComboInNodes();
  const { graph } = app.canvas;
  const [load, apply] = ["SideStepLoadAdapter", "SideStepApplyAdapter"].map((type) => window.LiteGraph.createNode(type));
  const [x, y] = freePlace(graph, placeBeside(beside), load.size[0] + GAP + apply.size[0]);
  load.pos = [x, y];
  apply.pos = [x + load.size[0] + GAP, y];
  graph.beforeChange?.();
  graph.add(load);
  graph.add(apply);
  load.widgets.find(({ name }) => name === "adapter_file").value = file;
  load.connect(0, apply, "adapter");
  graph.afterChange?.();
  app.canvas.selectNodes?.([load, apply]);
  app.canvas.setDirty(true, true);
  return [load, apply];
}

function placeBeside(node) {
  if (node) return [node.pos[0] + node.size[0] + GAP, node.pos[1]];
  const [left, top, width, height] = app.canvas.visible_area;
  return [left + width / 3, top + height / 3];
}

/** The place, moved down until no other node lies there. */
function freePlace(graph, [x, y], width) {
  const height = 160; // of the two nodes, with the title
  const covers = ({ pos, size }) => pos[0] < x + width && x < pos[0] + size[0] && pos[1] < y + height && y < pos[1] + size[1];
  for (let node = graph.nodes.find(covers); node; node = graph.nodes.find(covers)) y = node.pos[1] + node.size[1] + GAP;
  return [x, y];
}

/** Press Run, so that a run that was stopped goes on; a run that was finished by hand is reopened first. */
export async function goOn({ id, finished }) {
  if (finished) await continueRun(id);
  await app.queuePrompt(0);
}

/**
 * Set the widgets of Train LoRA so that it goes on from a run's last step, and press Run.  Throws an Error with a
 * sentence where a preset sets the length.
 */
export async function trainLonger(node, { id, step }, more) {
  const widget = (name) => node.widgets.find((each) => each.name === name);
  const [length, from] = [widget("max_steps"), widget("resume_from")];
  if (length.disabled) {
    throw new Error(t("A preset sets the length: write a larger max_steps into its changes, choose the last checkpoint in "
      + "resume_from of Train LoRA, and press Run."));
  }
  await app.refreshComboInNodes();
  const checkpoint = `${id}/checkpoint-step-${step}`;
  if (!from.options.values.includes(checkpoint)) {
    throw new Error(t("The checkpoint of step {step} is gone, so this training cannot go on.", { step }));
  }
  change(length, step + more);
  change(from, checkpoint);
  app.canvas.setDirty(true, true);
  await app.queuePrompt(0);
}

function change(widget, value) {
  widget.value = value;
  widget.callback?.(value);
}

/** Open the sidebar's tab Listen with "run/ID" or "comparison/ID". */
export function listen(source) {
  wanted.ask(source);
  return app.extensionManager.command.execute("SideStep.Listen");
}

/** Open the sidebar's tab Runs with this run chosen for a comparison. */
export function compareRun(id) {
  wantedRun.ask(id);
  return app.extensionManager.command.execute("SideStep.ShowRuns");
}
