// Everything that the page asks about runs: one function per route.  What the server refuses is thrown as an Error
// whose message is a sentence for people.

import { api } from "../../../scripts/api.js";
import { t } from "../words.js";

const gone = () => t("ComfyUI does not answer.");

const path = (id, ...rest) => ["/sidestep/runs", encodeURIComponent(id), ...rest].join("/");

export async function ask(route, options) {
  let response;
  try {
    response = await api.fetchApi(route, options);
  } catch {
    throw new Error(gone());
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  throw new Error(sentence(await response.text()));
}

/** The sentence of a refusal: {"error": sentence}, or a text. */
function sentence(text) {
  try {
    return JSON.parse(text).error ?? gone();
  } catch {
    return text || gone();
  }
}

export const post = (route, body = {}) =>
  ask(route, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

/** Every run, newest first. */
export const listRuns = async () => (await ask("/sidestep/runs")).runs;

/** One run. */
export const readRun = (id) => ask(path(id));

/** {id, last_step, stride, rows}: the curve after a step, until another one, of about so many points. */
export const readMetrics = (id, { after = -1, until = null, points = 2000 } = {}) =>
  ask(`${path(id, "metrics")}?points=${points}${after >= 0 ? `&after=${after}` : ""}${until === null ? "" : `&until=${until}`}`);

/** The workflow that started a run. */
export const readWorkflow = (id) => ask(path(id, "workflow"));

/** Address of a preview's audio, for a player. */
export const previewAddress = (id, step) => api.apiURL(path(id, "previews", step));

/** Address of a run's report, for a link. */
export const reportAddress = (id) => api.apiURL(path(id, "report"));

/** Keep a note about a run; an empty one removes it. */
export const writeNote = (id, note) => post(path(id, "note"), { note });

/** Delete a run that is not being trained; its adapters in the LoRA folder stay. */
export const deleteRun = (id) => post(path(id, "delete"));

export const stopRun = (id) => post(path(id, "stop"));
export const finishRun = (id) => post(path(id, "finish"));
export const saveRun = (id) => post(path(id, "save"));
export const previewRun = (id) => post(path(id, "preview"));
export const pauseRun = (id) => post(path(id, "pause"));
export const continueRun = (id) => post(path(id, "continue"));

/** The latest state of a node of a workflow, as events have it; null if it never ran. */
export const nodeHistory = (nodeId, workflowId) =>
  ask(`/sidestep/nodes/${encodeURIComponent(nodeId)}/history?workflow=${encodeURIComponent(workflowId ?? "")}`);

/** The plan of the training of a node, from a prompt in API format; nothing is run. */
export const planTraining = (prompt, nodeId) => post("/sidestep/plan", { prompt, node_id: nodeId });
