// Asks for the plan of each training in sight when the workflow changes; never while one runs.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { rootGraph } from "../canvas.js";
import { UNDER_WAY } from "../runs/actions.js";
import { planTraining } from "../runs/server.js";

const QUIET = 600; // milliseconds without a change

/** The nodes of a prompt that a node's inputs come from, with itself. */
export function upstream(prompt, id) {
  const found = {};
  const waiting = [id];
  while (waiting.length) {
    const each = waiting.pop();
    if (found[each] || !prompt[each]) continue;
    found[each] = prompt[each];
    waiting.push(...Object.values(prompt[each].inputs).filter(Array.isArray).map(([source]) => String(source)));
  }
  return found;
}

/** Keep the plans of the panels up to date; `panels()` yields [execution id, panel] of every node with a panel. */
export function watchPlans(panels) {
  let timer = 0;
  let working = false;

  function later() {
    clearTimeout(timer);
    timer = setTimeout(() => void update(), QUIET);
  }

  async function update() {
    const all = [...panels()];
    const wanted = all.filter(([, { plan, element }]) => plan && isInSight(element));
    if (!wanted.length || all.some(([, { state }]) => UNDER_WAY.has(state?.status))) return;
    if (working) return void later();
    working = true;
    try {
      const { output } = await app.graphToPrompt();
      for (const [id, panel] of wanted) await ask(id, panel, upstream(output, id));
    } finally {
      working = false;
    }
  }

  async function ask(id, panel, prompt) {
    if (!prompt[id]) return panel.plan.show(null); // muted
    const asked = JSON.stringify(prompt);
    const now = Date.now();
    if (panel.planned?.asked === asked && now - panel.planned.at < 2000) return;
    panel.planned = { asked, at: now };
    try {
      panel.plan.show(await planTraining(prompt, id));
    } catch (error) {
      panel.plan.show({ message: error.message, wrong: true });
    }
    panel.resized();
  }

  api.addEventListener("graphChanged", later);
  api.addEventListener("status", ({ detail }) => { if (!detail?.exec_info?.queue_remaining) later(); });
  window.addEventListener("focus", later); // songs may have been copied meanwhile
  return later;
}

function isInSight(element) {
  if (!element.checkVisibility?.()) return false;
  const { left, top, right, bottom } = element.getBoundingClientRect();
  return right > 0 && bottom > 0 && left < innerWidth && top < innerHeight;
}

/** Set a widget of a node, by its execution id; a line is added to the widget `changes` of a preset. */
export function change({ node: id, widget: name }, value, setting) {
  const path = id.split(":");
  let graph = rootGraph();
  for (const step of path.slice(0, -1)) graph = graph.getNodeById(Number(step)).subgraph;
  const node = graph.getNodeById(Number(path.at(-1)));
  const widget = node.widgets.find((each) => each.name === name);
  if (name === "changes") widget.value = [String(widget.value).trim(), `${setting}: ${value}`].filter(Boolean).join("\n");
  else widget.value = typeof widget.value === "number" ? Number(value) : String(value);
  widget.callback?.(widget.value);
  app.canvas.setDirty(true, true);
  app.extensionManager.workflow.activeWorkflow?.changeTracker?.checkState?.();
}
