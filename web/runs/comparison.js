// Curves of several runs over each other, in a tab of ComfyUI's bottom panel.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { make, makeSvg } from "../dom.js";
import { dots, leftOf, line, ticksOf, topOf } from "../progress/loss_chart.js";
import { decimal } from "../progress/progress.js";
import { number, plural, t } from "../words.js";
import { commonRange, differences, readAt } from "./comparing.js";
import { labels, statusWord } from "./run_words.js";
import { readMetrics } from "./server.js";

const TAB = "side-step-compare";
const POINTS = 1500; // of a curve: more than a screen has columns
const LATER = 2000; // milliseconds between two looks at a curve that grows
const SMOOTHED = "smoothed"; // the curve that is shown first
const kinds = () => [
  { key: SMOOTHED, label: t("Smoothed"), title: t("Loss, averaged over recent steps") },
  { key: "heldout", label: t("Held-out"),
    title: t("Loss on fixed crops and noise; of songs that are held out, if there are any") },
  { key: "loss", label: t("Raw"), title: t("Loss of each step") },
];

let comparison = null;
let compared = []; // runs

/** Show these runs in the bottom panel. */
export function openComparison(runs) {
  compared = runs;
  const { bottomPanel } = app.extensionManager;
  if (!comparison) {
    comparison = createComparison();
    // Only now: a tab that is there from the start would be the first one of the panel.
    bottomPanel.registerBottomPanelTab({
      id: TAB, title: t("Compare runs"), type: "custom", render, destroy: () => comparison.hidden(),
    });
  }
  void comparison.show(runs);
  if (bottomPanel.activeBottomPanelTabId !== TAB) bottomPanel.toggleBottomPanelTab(TAB);
}

function render(container) {
  if (comparison.element.parentNode === container) return;
  container.classList.add("sidestep-comparison-place");
  container.replaceChildren(comparison.element);
  void comparison.show(compared);
}

/** {element, show(runs), hidden()}. */
function createComparison() {
  const plot = createPlot();
  const choice = make("div", "sidestep-comparison-choice");
  const log = make("input", "");
  const legend = make("ul", "sidestep-legend");
  const table = make("div", "sidestep-differences");
  const element = make("div", "sidestep-comparison",
    make("div", "sidestep-comparison-chart", make("div", "sidestep-comparison-head", choice,
      make("label", "sidestep-comparison-log", log, t("Log scale"))), plot.element),
    make("div", "sidestep-comparison-side", legend, table));
  const buttons = kinds().map(({ key, label, title }) => {
    const button = make("button", "sidestep-run-button", label);
    button.type = "button";
    button.title = title;
    button.addEventListener("click", () => choose(key));
    return { key, button };
  });
  let shown = [];
  let curves = [];
  let key = SMOOTHED;
  let timer = 0;

  choice.setAttribute("role", "group");
  choice.setAttribute("aria-label", t("Curve"));
  choice.append(...buttons.map(({ button }) => button));
  log.type = "checkbox";
  log.addEventListener("change", draw);
  plot.onRead(write);

  function choose(chosen) {
    key = chosen;
    draw();
  }

  async function show(runs) {
    hidden();
    shown = runs;
    curves = runs.map(() => []);
    drawTable();
    api.addEventListener("sidestep.progress", onProgress);
    await load();
  }

  async function load() {
    const asked = shown;
    const answers = await Promise.allSettled(asked.map(({ id }) => readMetrics(id, { points: POINTS })));
    if (asked !== shown) return; // other runs by now
    curves = answers.map(({ value }, index) => value?.rows ?? curves[index]);
    draw();
  }

  function onProgress({ detail: { run } }) {
    if (!shown.some(({ id }) => id === run)) return;
    timer ||= setTimeout(() => {
      timer = 0;
      void load();
    }, LATER);
  }

  function hidden() {
    api.removeEventListener("sidestep.progress", onProgress);
    clearTimeout(timer);
    timer = 0;
  }

  function draw() {
    for (const each of buttons) each.button.setAttribute("aria-pressed", String(each.key === key));
    plot.draw(curves, key, log.checked);
    write(null);
  }

  /** The legend, with the numbers at the step that is read, else the latest ones. */
  function write(step) {
    const values = step === null ? latest() : readAt(curves, key, step);
    const texts = labels(shown, Date.now());
    legend.replaceChildren(...shown.map((run, index) => {
      const [mark, path] = makeSvg("sidestep-legend-mark", "0 0 24 8", `sidestep-series-${index}`);
      path.setAttribute("d", "M1 4h22");
      const value = values[index];
      const text = value ? t("{loss} at step {step}", { loss: decimal(value.value), step: value.step }) : "-";
      const name = make("span", "sidestep-run-name", texts[index]);
      name.title = `${run.id}: ${statusWord(run)}`;
      return make("li", "", mark, name, make("span", "sidestep-legend-value", text));
    }));
  }

  const latest = () => curves.map((points) => {
    const point = points.findLast((each) => Number.isFinite(each[key]));
    return point ? { step: point.step, value: point[key] } : null;
  });

  function drawTable() {
    const rows = differences(shown);
    const names = labels(shown, Date.now()).map((label) => headCell("col", label));
    const head = make("tr", "", headCell("col", t("Setting")), ...names);
    const body = rows.map(([name, texts]) =>
      make("tr", "", headCell("row", name), ...texts.map((text) => make("td", "", text))));
    table.replaceChildren(rows.length ? make("table", "", make("thead", "", head), make("tbody", "", ...body))
      : make("p", "sidestep-empty", t("These runs have the same settings.")));
    table.tabIndex = 0; // it scrolls
    table.setAttribute("role", "region");
    table.setAttribute("aria-label", t("Settings in which the runs differ"));
  }

  return { element, show, hidden };
}

function headCell(scope, text) {
  const cell = make("th", "", text);
  cell.scope = scope;
  return cell;
}

/** {element, draw(curves, key, log), onRead(function of a step or null)}. */
function createPlot() {
  const [svg] = makeSvg("sidestep-curves", "0 0 100 100");
  const grid = make("div", "sidestep-grid");
  const [first, last] = [make("span", ""), make("span", "")];
  const hair = make("div", "sidestep-hair");
  const element = make("div", "sidestep-plot", grid, svg, hair, make("div", "sidestep-steps", first, last));
  let range = null;
  let tell = () => {};

  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  element.tabIndex = 0;
  element.setAttribute("role", "application");
  element.setAttribute("aria-roledescription", t("chart"));
  element.setAttribute("aria-label", t("Curves of the compared runs; arrow keys read them step by step"));
  let step = null;

  function draw(curves, key, log) {
    range = commonRange(curves, key, log);
    const paths = range ? curves.map((points, index) => {
      const [, path] = makeSvg("", "0 0 100 100", `sidestep-series-${index}`);
      path.setAttribute("d", line(points, key, range));
      return path;
    }) : [];
    const marks = range && key === "heldout" ? curves.map((points, index) => {
      const [, path] = makeSvg("", "0 0 100 100", `sidestep-series-${index} sidestep-series-dots`);
      path.setAttribute("d", dots(points, key, range));
      return path;
    }) : [];
    svg.replaceChildren(...paths, ...marks);
    svg.setAttribute("aria-label", plural(paths.length, "{n} curve", "{n} curves"));
    grid.replaceChildren(...(range ? ticksOf(range).map(gridLine) : []));
    first.textContent = range ? number(range.x[0]) : t("No such numbers yet.");
    last.textContent = range ? number(range.x[1]) : "";
    read(null);
  }

  function read(at) {
    step = at === null || !range ? null : Math.min(range.x[1], Math.max(range.x[0], Math.round(at)));
    hair.hidden = step === null;
    if (step !== null) hair.style.left = `${leftOf(step, range)}%`;
    tell(step);
  }

  element.addEventListener("pointermove", ({ clientX }) => {
    if (!range) return;
    const { left, width } = element.getBoundingClientRect();
    read(range.x[0] + ((clientX - left) / width) * (range.x[1] - range.x[0]));
  });
  element.addEventListener("pointerleave", () => read(null));
  element.addEventListener("blur", () => read(null));
  element.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!direction || !range) return;
    event.preventDefault();
    event.stopPropagation(); // these are keys of ComfyUI's canvas too
    const stride = Math.max(1, (range.x[1] - range.x[0]) / 50);
    read((step ?? range.x[0]) + direction * stride);
  });
  return { element, draw, onRead: (function_) => { tell = function_; } };
}

function gridLine({ label, top }) {
  const row = make("div", "sidestep-gridline", label);
  row.style.top = `${top}%`;
  return row;
}
