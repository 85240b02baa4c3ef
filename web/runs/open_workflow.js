// The workflow of a run in ComfyUI's page: found among the open ones, or put back from the run's folder.

import { app } from "../../../scripts/app.js";
import { rootGraph } from "../canvas.js";
import { t } from "../words.js";
import { readWorkflow } from "./server.js";

/** Open the workflow of a run, unless it is open already.  False if the person would rather not. */
export async function openWorkflowOf(run) {
  if (run.workflow_id && rootGraph().id === run.workflow_id) return true;
  const { workflow } = app.extensionManager;
  const open = run.workflow_id && workflow.openWorkflows.find(({ activeState }) => activeState?.id === run.workflow_id);
  if (open) {
    await app.loadGraphData(structuredClone(plain(open.activeState)), true, true, open);
    return true;
  }
  if (!run.has_workflow) throw new Error(t("The workflow of this run was not kept."));
  const content = await readWorkflow(run.id);
  if (workflow.activeWorkflow?.isModified && !(await agrees(run, workflow.activeWorkflow))) return false;
  await app.loadGraphData(content, true, true, run.name);
  return true;
}

/** ComfyUI's stores hand out proxies, which cannot be cloned. */
const plain = (value) => JSON.parse(JSON.stringify(value));

async function agrees(run, { filename }) {
  const message = t("The workflow of {name} opens. Your changes of {file} are not saved yet; they stay in its tab.",
    { name: run.name, file: filename });
  return Boolean(await app.extensionManager.dialog.confirm({ title: t("Open the workflow of this run?"), message }));
}

/** Go to the node of a run in the open workflow; false if it is not there. */
export function goToNode({ node_id }) {
  const ids = String(node_id).split(":");
  let graph = rootGraph();
  for (const id of ids.slice(0, -1)) graph = nodeOf(graph, id)?.subgraph;
  const node = nodeOf(graph, ids.at(-1));
  if (!node) return false;
  if (app.canvas.graph !== graph) app.canvas.setGraph(graph);
  requestAnimationFrame(() => { // the canvas of a subgraph is laid out first
    app.canvas.deselectAll();
    app.canvas.selectNode(node);
    app.canvas.centerOnNode(node);
  });
  return true;
}

const nodeOf = (graph, id) => graph?.nodes.find((node) => String(node.id) === id);
