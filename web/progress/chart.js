// The loss curve with its axes, marks and tools.

import { make, makeSvg } from "../dom.js";
import { number, plural, t } from "../words.js";
import { addHover } from "./chart_hover.js";
import { csvOf, download, pngOf } from "./chart_export.js";
import { createFiner } from "./finer.js";
import { dots, errorBars, leftOf, line, marks, ranges, ticksOf, topOf } from "./loss_chart.js";
import { decimal, measured, newest } from "./progress.js";
import { verdict } from "./verdict.js";

const CURVES = [["sidestep-raw", "loss", line], ["sidestep-smoothed", "smoothed", line],
  ["sidestep-heldout", "heldout", line], ["sidestep-heldout-dots", "heldout", dots]];
const ERRORS = "sidestep-heldout-errors";
const GLYPHS = { saved: "\u25b4", preview: "\u266a", best: "" };
const help = () => t("Drag to zoom into a part, double-click to see the whole run. With the keyboard: arrow keys read the "
  + "curve, + and - zoom, 0 shows the whole run.");

/** {element, show(state), height() in pixels}; `read(run, {after, until})` asks for {rows} of a part of the curve. */
export function createChart(height, read) {
  const view = { zoom: null, log: false };
  let state = { points: [], previews: [], metrics: {} };
  let run = null;
  let range = null; // that is drawn
  const [svg, ...paths] = makeSvg("sidestep-curves", "0 0 100 100", ERRORS, ...CURVES.map(([name]) => name));
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const grid = make("div", "sidestep-grid");
  const marked = make("div", "sidestep-marks");
  const [first, last] = [make("span", ""), make("span", "")];
  const plot = make("div", "sidestep-plot", grid, svg, marked, make("div", "sidestep-steps", first, last));
  plot.title = help();
  const reading = make("div", "sidestep-verdict");
  reading.setAttribute("role", "status");
  const log = tool(t("Log"), t("Logarithmic scale"), () => {
    view.log = !view.log;
    log.setAttribute("aria-pressed", String(view.log));
    draw();
  });
  log.setAttribute("aria-pressed", "false");
  const whole = tool(t("Whole run"), t("Show the whole run again"), () => zoomTo(null));
  const png = tool("PNG", t("Save a picture of this chart"), () => pngOf({ ...state, points: points() }, view, plot).then((blob) => save(blob, "png")));
  const csv = tool("CSV", t("Save the numbers of this chart as a table"), () => save(csvOf(points()), "csv"));
  const tools = make("div", "sidestep-tools", whole, log, png, csv);
  const element = make("div", "sidestep-chart", make("div", "sidestep-reading", reading, tools), plot);
  const finer = createFiner({ read, arrived: () => draw() });
  const points = () => finer.points(state);
  const hover = addHover(plot, { points, range: () => range, zoomTo,
    label: () => measured(state)[0] });

  const save = (blob, ending) => download(blob, `${state.run || "loss"}.${ending}`);

  const isInSight = ({ step }) => !view.zoom || (step >= range.x[0] && step <= range.x[1]);

  function zoomTo(zoom) {
    view.zoom = zoom;
    void finer.ask(state, zoom);
    draw();
  }

  function show(next) {
    if (next.run !== run) view.zoom = null;
    run = next.run;
    if (next.points === state.points && next.previews === state.previews && next.saved === state.saved
      && next.status === state.status) return;
    state = next;
    draw();
  }

  function draw() {
    const drawn = points();
    range = ranges(drawn, view);
    const [errors, ...curves] = paths;
    errors.setAttribute("d", range ? errorBars(drawn, range) : "");
    CURVES.forEach(([, key, shape], index) => curves[index].setAttribute("d", range ? shape(drawn, key, range) : ""));
    grid.replaceChildren(...(range ? ticksOf(range).map(gridLine) : []));
    marked.replaceChildren(...(range ? marks(state).filter(isInSight).map((mark) => glyph(mark, range)) : []));
    first.textContent = range ? number(Math.round(range.x[0])) : "";
    last.textContent = range ? number(Math.round(range.x[1])) : "";
    whole.hidden = !view.zoom;
    for (const button of [log, png, csv]) button.disabled = !range;
    const { kind, sentence } = verdict(state);
    reading.dataset.kind = kind;
    if (reading.textContent !== sentence) reading.textContent = reading.title = sentence;
    const loss = newest(state, "smoothed") ?? newest(state, "loss");
    const label = plural(state.points.length, "Loss curve, {n} point, now {loss}.", "Loss curve, {n} points, now {loss}.",
      { loss: decimal(loss) });
    plot.setAttribute("aria-label", `${label} ${help()}`);
    hover.redraw();
  }

  draw();
  return { element, show, height: () => height };
}

function tool(label, title, press) {
  const button = make("button", "sidestep-tool", label);
  button.type = "button";
  button.title = title;
  button.addEventListener("click", press);
  return button;
}

function gridLine({ label, top }) {
  const row = make("div", "sidestep-gridline", label);
  row.style.top = `${top}%`;
  return row;
}

const MEANINGS = {
  saved: ({ step }) => t("Saved at step {step}", { step }),
  preview: ({ step }) => (step ? t("Preview at step {step}", { step }) : t("Preview before training")),
  best: ({ step, value }) => t("Best held-out loss: {loss} at step {step}", { loss: decimal(value), step }),
};

function glyph(mark, range) {
  const element = make("span", `sidestep-mark sidestep-mark-${mark.kind}`, GLYPHS[mark.kind]);
  element.title = MEANINGS[mark.kind](mark);
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", element.title);
  element.style.left = `${leftOf(mark.step, range)}%`;
  if (mark.kind === "best") element.style.top = `${topOf(mark.value, range)}%`;
  return element;
}
