// What the list of runs offers for a run.  Each action returns a sentence about what it did, "" if that is plain to see;
// what does not work is thrown as an Error with a sentence.

import { app } from "../../../scripts/app.js";
import { wanted } from "../listen/request.js";
import { t } from "../words.js";
import { controls, goOn, listen as openListen, useAdapter } from "./actions.js";
import { goToNode, openWorkflowOf } from "./open_workflow.js";
import { isUnderWay } from "./run_words.js";
import { deleteRun, reportAddress } from "./server.js";

const SENT = {
  preview: (name) => t("{name} generates a preview after this step.", { name }),
  save: (name) => t("{name} is saved after this step.", { name }),
  finish: (name) => t("{name} finishes after this step.", { name }),
  pause: (name) => t("{name} pauses after this step.", { name }),
  continue: (name) => t("{name} goes on.", { name }),
  stop: (name) => t("{name} stops after this step.", { name }),
};
const ORDER = ["pause", "continue", "stop", "finish", "save", "preview"]; // by how often they are wanted in a list

const ofControl = ({ id, label, title, fits, send }) => ({
  id, label, title,
  fits: ({ status }) => fits(status),
  async act(run) {
    await send(run.id);
    return SENT[id](run.name);
  },
});

/** {id, label, title, fits(run), act(run)}; the first that fits is what a person most likely wants next. */
const actions = () => [
  ...ORDER.map((id) => ofControl(controls().find((control) => control.id === id))),
  {
    id: "resume", ...continuing(),
    fits: ({ status, has_workflow }) => status === "stopped" && has_workflow, act: resume,
  },
  {
    id: "use", label: t("Use it"), title: t("Add Load Adapter and Apply Adapter with the newest file of this run"),
    fits: ({ files }) => files.length > 0, act: use,
  },
  {
    id: "further", ...continuing(),
    fits: (run) => endedEarly(run) && run.has_workflow, act: resume,
  },
  {
    id: "listen", label: t("Listen"), title: t("Hear what it has learned"),
    fits: ({ previews, files }) => files.length > 0 || previews.some(({ message }) => !message), act: listen,
  },
  {
    id: "show", label: t("Show"), title: t("Go to the node that trained it; its workflow is opened if need be"),
    fits: ({ workflow_id, has_workflow }) => Boolean(workflow_id) || has_workflow, act: show,
  },
  {
    id: "report", label: t("Report"), title: t("Open a report of this run in a new tab"), fits: () => true, act: report,
  },
  {
    id: "delete", label: t("Delete"), title: t("Delete this run; adapters in the LoRA folder stay"),
    fits: (run) => !isUnderWay(run), act: remove,
  },
];

/** True for a run that was finished by hand, and has steps left. */
const endedEarly = ({ status, step, total }) => status === "finished" && step < total;

const continuing = () => ({
  label: t("Continue"), title: t("Open its workflow and run it: the same songs and settings continue the run"),
});

/** The actions that fit a run. */
export const actionsFor = (run) => actions().filter(({ fits }) => fits(run));

/** Do something with a run. */
export const act = (id, run) => actions().find((action) => action.id === id).act(run);

async function resume(run) {
  if (!(await openWorkflowOf(run))) return "";
  goToNode(run);
  await goOn({ id: run.id, finished: endedEarly(run) });
  return t("{name} goes on at step {step} when its turn comes.", { name: run.name, step: run.step });
}

async function show(run) {
  if (!(await openWorkflowOf(run))) return "";
  const { name } = run;
  if (!goToNode(run)) throw new Error(t("The node that trained {name} is not in this workflow any more.", { name }));
  return t("{name} was trained by this node.", { name });
}

async function use(run) {
  const file = run.files.at(-1);
  await useAdapter(file);
  return t("Apply Adapter is in the workflow with {file}. Connect your model to it.", { file });
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
  const message = t("Its checkpoints, previews and curve are deleted. Adapters in the LoRA folder stay.");
  const { dialog } = app.extensionManager;
  const title = t("Delete this run?");
  if (!(await dialog.confirm({ title, message, type: "delete", itemList: [run.name] }))) return "";
  await deleteRun(run.id);
  return t("{name} is deleted.", { name: run.name });
}
