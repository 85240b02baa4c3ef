// What ComfyUI refused to run, by node.  The server keeps nothing of it, so the page does, in this tab, until the workflow runs.

const key = (workflow) => `sidestep.refused.${workflow}`;

/** {execution id of a node: why it was refused} of the latest attempt to run a workflow. */
export const refusals = (workflow) => JSON.parse(sessionStorage.getItem(key(workflow)) ?? "{}");

/** Remember these in place of the earlier ones. */
export function remember(workflow, messages) {
  if (Object.keys(messages).length) sessionStorage.setItem(key(workflow), JSON.stringify(messages));
  else sessionStorage.removeItem(key(workflow));
}
