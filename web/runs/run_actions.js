// What the list of runs offers for a run.  Each action returns a sentence about what it did, "" if that is plain to see;
// what does not work is thrown as an Error with a sentence.

import { app } from "../../../scripts/app.js";
import { wanted } from "../listen/request.js";
import { CONTROLS, goOn, listen as openListen, useAdapter } from "./actions.js";
import { goToNode, openWorkflowOf } from "./open_workflow.js";
import { isUnderWay } from "./run_words.js";
import { deleteRun, reportAddress } from "./server.js";

const SENT = {
  preview: "generates a preview after this step",
  save: "is saved after this step",
  finish: "finishes after this step",
  pause: "pauses after this step",
  continue: "goes on",
  stop: "stops after this step",
};
const CONTINUE = "Open its workflow and run it: the same songs and settings continue the run";
const ORDER = ["pause", "continue", "stop", "finish", "save", "preview"]; // by how often they are wanted in a list

const ofControl = ({ id, label, title, fits, send }) => ({
  id, label, title,
  fits: ({ status }) => fits(status),
  async act(run) {
    await send(run.id);
    return `${run.name} ${SENT[id]}.`;
  },
});

/** {id, label, title, fits(run), act(run)}; the first that fits is what a person most likely wants next. */
export const ACTIONS = [
  ...ORDER.map((id) => ofControl(CONTROLS.find((control) => control.id === id))),
  {
    id: "resume", label: "Continue", title: CONTINUE,
    fits: ({ status, has_workflow }) => status === "stopped" && has_workflow, act: resume,
  },
  {
    id: "use", label: "Use it", title: "Add Load Adapter and Apply Adapter with the newest file of this run",
    fits: ({ files }) => files.length > 0, act: use,
  },
  {
    id: "further", label: "Continue", title: CONTINUE,
    fits: (run) => endedEarly(run) && run.has_workflow, act: resume,
  },
  {
    id: "listen", label: "Listen", title: "Hear what it has learned",
    fits: ({ previews, files }) => files.length > 0 || previews.some(({ message }) => !message), act: listen,
  },
  {
    id: "show", label: "Show", title: "Go to the node that trained it; its workflow is opened if need be",
    fits: ({ workflow_id, has_workflow }) => Boolean(workflow_id) || has_workflow, act: show,
  },
  { id: "report", label: "Report", title: "Open a report of this run in a new tab", fits: () => true, act: report },
  {
    id: "delete", label: "Delete", title: "Delete this run; adapters in the LoRA folder stay",
    fits: (run) => !isUnderWay(run), act: remove,
  },
];

/** True for a run that was finished by hand, and has steps left. */
const endedEarly = ({ status, step, total }) => status === "finished" && step < total;

/** The actions that fit a run. */
export const actionsFor = (run) => ACTIONS.filter(({ fits }) => fits(run));

async function resume(run) {
  if (!(await openWorkflowOf(run))) return "";
  goToNode(run);
  await goOn({ id: run.id, finished: endedEarly(run) });
  return `${run.name} goes on at step ${run.step.toLocaleString()} when its turn comes.`;
}

async function show(run) {
  if (!(await openWorkflowOf(run))) return "";
  if (!goToNode(run)) throw new Error(`The node that trained ${run.name} is not in this workflow any more.`);
  return `${run.name} was trained by this node.`;
}

async function use(run) {
  const file = run.files.at(-1);
  await useAdapter(file);
  return `Apply Adapter is in the workflow with ${file}. Connect your model to it.`;
}

async function listen(run) {
  if (run.previews.some(({ message }) => !message)) wanted.ask(`run/${run.id}`);
  await openListen();
  return "";
}

function report(run) {
  window.open(reportAddress(run.id), "_blank", "noopener");
  return "";
}

async function remove(run) {
  const message = "Its checkpoints, previews and curve are deleted. Adapters in the LoRA folder stay.";
  const { dialog } = app.extensionManager;
  if (!(await dialog.confirm({ title: "Delete this run?", message, type: "delete", itemList: [run.name] }))) return "";
  await deleteRun(run.id);
  return `${run.name} is deleted.`;
}
