// The panel on a node: status, progress bar, and for training the loss curve.  DOM and SVG only, so that it looks the
// same on the classic canvas and in Nodes 2.0.

import { make, makeSvg } from "../dom.js";
import { createChart } from "./chart.js";
import { createControls } from "./controls.js";
import { createNumbers } from "./numbers.js";
import { createPlan } from "./plan.js";
import { change } from "./planner.js";
import { besideTraining, count, share, timeLeft, title } from "./progress.js";
import { createPreviews } from "./previews.js";
import { readMetrics } from "../runs/server.js";
import { createTimeBins } from "./time_bins.js";

const ICONS = {
  idle: "M6 2.5a3.5 3.5 0 1 0 0 7a3.5 3.5 0 1 0 0 -7z",
  running: "M6 2a4 4 0 1 0 0 8a4 4 0 1 0 0 -8z",
  paused: "M3.5 2.5v7M8.5 2.5v7",
  finished: "M2 6.5L5 9.5L10.5 2.5",
  cancelled: "M2.5 2.5h7v7h-7z",
  failed: "M2.5 2.5L9.5 9.5M9.5 2.5L2.5 9.5",
};
const HEIGHT = { chart: 262, numbers: 78, memory: 22, line: 64, bins: 30, controls: 30,
  previews: { row: 32, failure: 39 } }; // in pixels
const LINE = 17;
const NOTHING = { metrics: {}, points: [], previews: [] };

/**
 * {element, show(state), height() in pixels}; `idle` and `hint` are the texts before the first run, `address` makes the
 * address of a preview, `node()` is the panel's node, and `resized()` is called when the height changes by itself.
 */
export function createPanel({ chart, idle, hint, address, node, resized }) {
  const [icon, iconPath] = makeSvg("sidestep-icon", "0 0 12 12", "");
  const heading = make("span", "sidestep-title");
  const counter = make("span", "sidestep-count");
  const fill = make("div", "sidestep-fill");
  const note = make("div", "sidestep-note");
  const left = make("div", "sidestep-left");
  const curve = chart ? [createChart(HEIGHT.chart, readMetrics), createNumbers(HEIGHT)] : [];
  const parts = chart ? [...curve, createTimeBins(HEIGHT.bins), createPreviews(address, HEIGHT.previews),
    createControls({ node, heights: HEIGHT, changed })] : [];
  const plan = chart ? createPlan({ change }) : null;
  const announced = make("div", "sidestep-announced");
  announced.setAttribute("role", "status");
  const element = make(
    "div",
    "sidestep-panel",
    make("div", "sidestep-head", icon, heading, counter),
    make("div", "sidestep-bar", fill),
    ...parts.map((part) => part.element),
    ...(plan ? [plan.element] : []),
    make("div", "sidestep-foot", note, left),
    announced,
  );
  let height = 0;
  let shown = "";

  function show(state) {
    const status = state?.status ?? "idle";
    element.dataset.status = status;
    iconPath.setAttribute("d", ICONS[status] ?? ICONS.idle);
    heading.textContent = state ? title(state) : idle;
    counter.textContent = state ? count(state) : "";
    const done = state ? share(state) : 0;
    fill.classList.toggle("sidestep-unknown", status === "running" && done === null);
    fill.style.width = done === null ? "" : `${100 * done}%`;
    note.textContent = note.title = state ? [besideTraining(state), state.message].filter(Boolean).join(": ") : hint;
    left.textContent = status === "running" && !chart ? timeLeft(state.metrics.eta_seconds) : "";
    for (const part of parts) part.show(state ?? NOTHING);
    plan?.idle(!state);
    for (const { element: part } of curve) part.hidden = !state;
    if (status !== shown) announced.textContent = state ? `${title(state)}. ${state.message}` : "";
    shown = status;
    measure();
  }

  function measure() {
    // A long text at the end of a run takes its room from the chart; a panel without one grows.
    const extra = chart && shown !== "idle" ? 0 : HEIGHT.line + Math.max(0, note.offsetHeight - LINE);
    const seen = [...parts.filter((part) => !part.element.hidden), ...(plan ? [plan] : [])];
    height = seen.reduce((sum, part) => sum + part.height(), extra);
    element.style.minHeight = `${height}px`;
  }

  function changed() {
    measure();
    resized();
  }

  show(null);
  return { element, show, height: () => height, plan, resized: changed };
}
