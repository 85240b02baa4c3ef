// Shows live progress on Side-Step's nodes and restores it after a page reload; shows songs, and greys out widgets.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { grow, rootGraph, zoomCanvas } from "./canvas.js";
import { addStyles } from "./dom.js";
import { createNote, hasCapacity } from "./progress/note.js";
import { createPanel } from "./progress/panel.js";
import { followSettings, watchSettings } from "./preset_values.js";
import { watchPlans } from "./progress/planner.js";
import { advance, explains, failed, fromOutput, MAX_POINTS, messageOf, refusal, withLater } from "./progress/progress.js";
import { refusals, remember } from "./refusals.js";
import { nodeHistory } from "./runs/server.js";
import { addSongTable } from "./songs/songs.js";
import { dimUnused } from "./training_settings.js";
import { layOut } from "./widget_order.js";
import { loadWords, t } from "./words.js";

const EVENT = "sidestep.progress";
const WIDGET = "sidestep_progress";
const OF_ESTIMATE = ["choose", "granularity", "top_k", "percentile", "million_parameters", "minimum_per_category",
  "rank_by_score", "min_rank", "max_rank"];
const MAKE_NO_CHOICE = new Set(["analyze", "split", "clip", "preprocess"]); // stages after which no list has a new entry
const SETTINGS = new Set(["SideStepLoadPreset", "SideStepTrainingSettings"]);
const UNDER_WAY = new Set(["running", "stopping", "paused"]);
const MAKE_CHOICES = new Set(["SideStepMergeAdapter", "SideStepSavePreset", "SideStepSaveEstimate"]); // without a panel
const MARGIN = 10;
const WIDTH = 320; // of a new node, so that the numbers fit
const TRAINER = "SideStepTrainAdapter"; // the one whose panel has a chart
const PANELS = { // texts before the first run
  [TRAINER]: () => ({ idle: t("Not trained yet"), hint: t("Run the workflow: the loss curve grows here.") }),
  SideStepEstimateGradients: () => ({ idle: t("Not measured yet"), hint: t("Trains nothing: it measures where to.") }),
  SideStepAnalyzeSongs: () => ({ idle: t("Not analyzed yet"), hint: t("Needed once: the analysis is kept.") }),
  SideStepPreprocessAudioFolder: () => ({ idle: t("Not prepared yet"), hint: t("Needed once: the result is kept.") }),
};

let plan = () => {}; // asks for the plans of all trainings in sight

const address = ({ node_id, run }, step) =>
  api.apiURL(`/sidestep/nodes/${encodeURIComponent(node_id)}/runs/${encodeURIComponent(run)}/previews/${step}`);

/** Every node with a panel as [execution id, panel]; a node inside subgraphs has an id like "5:12". */
function* panels(graph = rootGraph(), path = "") {
  for (const node of graph.nodes) {
    const panel = node.widgets?.find((widget) => widget.panel)?.panel;
    if (panel) yield [`${path}${node.id}`, panel];
    if (node.subgraph) yield* panels(node.subgraph, `${path}${node.id}:`);
  }
}

/** Node ids repeat from workflow to workflow; a prompt that no browser sent has no workflow. */
const isOfThisWorkflow = ({ workflow }) => workflow == null || workflow === rootGraph().id;

function setState(panel, state) {
  panel.state = state;
  if (panel.frame) return;
  panel.frame = requestAnimationFrame(() => {
    panel.frame = null;
    panel.show(panel.state);
    grow(panel.node);
  });
}

async function restore(id, panel) {
  const request = (panel.request = (panel.request ?? 0) + 1);
  // Runs that ended before the server was started are on its disk, by workflow.
  const workflow = panel.node.comfyClass === TRAINER ? rootGraph().id : "";
  const answer = await nodeHistory(id, workflow);
  const state = answer && { ...answer, message: messageOf(answer) };
  if (request !== panel.request) return; // a newer answer is on its way
  const refused = refusals(rootGraph().id)[id];
  if (refused) {
    setState(panel, failed(state && isOfThisWorkflow(state) ? state : panel.state, refused));
  } else if (state && isOfThisWorkflow(state)) {
    setState(panel, withLater(state, panel.state));
    panel.node.showsAgain?.(state.output);
  } else if (UNDER_WAY.has(panel.state?.status)) {
    setState(panel, { ...panel.state, status: "cancelled", message: t("ComfyUI was restarted. Run again to continue.") });
  }
}

const restoreAll = () => Promise.all([...panels()].map(([id, panel]) => restore(id, panel)));

async function onProgress({ detail: event }) {
  const shown = isOfThisWorkflow(event) ? [...panels()].filter(([id]) => id === String(event.node_id)) : [];
  for (const [id, panel] of shown) {
    // A run that continues has a curve already; one that ended has points that were too many to send.
    const long = panel.state?.points?.length > MAX_POINTS;
    const incomplete = long || panel.state?.run !== event.run || event.status !== "running";
    setState(panel, advance(panel.state, event));
    if (incomplete) await restore(id, panel);
  }
  if (!UNDER_WAY.has(event.status) && !MAKE_NO_CHOICE.has(event.stage)) await app.refreshComboInNodes();
}

/** The panel of a node; those that have nothing to show while they run get a line of text for it. */
function addPanel(node) {
  const texts = PANELS[node.comfyClass]?.();
  const chart = node.comfyClass === TRAINER;
  const panel = texts ? createPanel({ ...texts, chart, address, node: () => node, resized: () => grow(node) })
    : createNote(node);
  panel.chart = chart;
  panel.element.classList.toggle("sidestep-first", chart);
  panel.element.addEventListener("wheel", zoomCanvas);
  const widget = node.addDOMWidget(WIDGET, "SIDESTEP_PROGRESS", panel.element, {
    serialize: false,
    hideOnZoom: false,
    margin: MARGIN,
    getMinHeight: () => panel.height() && panel.height() + 2 * MARGIN,
    getMaxHeight: texts ? undefined : () => panel.height() && panel.height() + 2 * MARGIN,
  });
  widget.serialize = false; // options.serialize keeps it out of the prompt, this one out of the workflow file
  widget.panel = panel;
  panel.node = node;
  const { onExecuted } = node;
  node.onExecuted = function (output) {
    onExecuted?.apply(this, arguments);
    if (!texts) {
      setState(panel, { status: "finished", message: "", output: output.sidestep?.[0] ?? {} });
      // A result from ComfyUI's cache is the node's first message; the server has later ones.
      const [id] = [...panels()].find(([, each]) => each === panel) ?? [];
      if (id) restore(id, panel);
    } else if (output.sidestep && !explains(panel.state, output)) setState(panel, fromOutput(output));
  };
  node.setSize([Math.max(WIDTH, node.size[0]), node.size[1]]);
}

/** What the node writes is in the lists of other nodes at once. */
function refreshChoices(node) {
  const { onExecuted } = node;
  node.onExecuted = function () {
    onExecuted?.apply(this, arguments);
    void app.refreshComboInNodes();
  };
}

/** Grey out the widgets that count for nothing, as `counts(widget name, whether the input is connected)` says. */
function watchInput(node, input, counts) {
  const update = () => {
    const linked = node.inputs.some(({ name, link }) => name === input && link != null);
    for (const widget of node.widgets) widget.disabled = !counts(widget.name, linked);
  };
  const { onConnectionsChange } = node;
  node.onConnectionsChange = function () {
    onConnectionsChange?.apply(this, arguments);
    update();
  };
  update();
}

const besideSongs = (name, linked) => !linked || name !== "folder";
const besideEstimate = (name, linked) => linked || !OF_ESTIMATE.includes(name);

/** What ComfyUI refuses before it runs is on the node too: it answers with the errors of each node. */
function showRefusals() {
  const { queuePrompt } = api;
  const show = async (messages) => {
    const workflow = rootGraph().id;
    const changed = { ...refusals(workflow), ...messages };
    remember(workflow, messages);
    await Promise.all([...panels()].filter(([id]) => changed[id]).map(([id, panel]) => restore(id, panel)));
  };
  api.queuePrompt = async function () {
    try {
      const answer = await queuePrompt.apply(this, arguments);
      await show({});
      return answer;
    } catch (error) {
      const errors = Object.entries(error?.response?.node_errors ?? {});
      if (errors.length) await show(Object.fromEntries(errors.map(([id, each]) => [id, refusal(each)])));
      throw error;
    }
  };
}

app.registerExtension({
  name: "sidestep.progress",
  async init() {
    addStyles("./sidestep.css", import.meta.url);
    await loadWords(app.extensionManager.setting.get("Comfy.Locale"));
  },
  nodeCreated(node) {
    if (!node.comfyClass.startsWith("SideStep")) return;
    addPanel(node);
    addSongTable(node);
    if (hasCapacity(node)) watchInput(node, "estimate", besideEstimate);
    if (MAKE_CHOICES.has(node.comfyClass)) refreshChoices(node);
    layOut(node);
    if (node.comfyClass === TRAINER) followSettings(node);
    if (SETTINGS.has(node.comfyClass)) watchSettings(node);
    if (node.comfyClass === "SideStepTrainingSettings") dimUnused(node);
    if (node.comfyClass === "SideStepPreprocessAudioFolder") watchInput(node, "songs", besideSongs);
  },
  async afterConfigureGraph() {
    await restoreAll();
    plan();
  },
  setup() {
    showRefusals();
    plan = watchPlans(panels);
    api.addEventListener(EVENT, onProgress);
    api.addEventListener("reconnected", restoreAll);
  },
});
