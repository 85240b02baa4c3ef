// Reading and zooming of a chart with the pointer or the keyboard.

import { make } from "../dom.js";
import { t } from "../words.js";
import { indexAt, leftOf, topOf, valuesAt } from "./loss_chart.js";
import { decimal, power } from "./progress.js";

const SMALLEST_DRAG = 0.02; // share of the width; less is a click
const KEY_SHARE = 0.02; // of the shown steps, per press of an arrow key
const ZOOM = 0.5; // share that is left after one press of +

/** [first, last] of a zoom between two shares of the width, in whole steps that lie apart; null if hardly any. */
export function dragged(from, to, [first, last]) {
  const [low, high] = [Math.min(from, to), Math.max(from, to)].map((share) => Math.min(1, Math.max(0, share)));
  if (high - low < SMALLEST_DRAG) return null;
  const steps = [Math.round(first + low * (last - first)), Math.round(first + high * (last - first))];
  return steps[1] > steps[0] ? steps : null;
}

/** [first, last] at `factor` of the width around `step`; null where that is the whole run. */
export function zoomed(step, factor, [first, last], [begin, end]) {
  const width = Math.max(2, (last - first) * factor);
  if (width >= end - begin) return null;
  const low = Math.min(Math.max(begin, step - width / 2), end - width);
  return [Math.round(low), Math.round(low + width)];
}

/**
 * Show the values below the pointer, and zoom by dragging; {redraw()}.  `points()`, `range()` and `label()` (of the
 * held-out loss) give what is drawn; `zoomTo([first, last] or null)` changes it.
 */
export function addHover(plot, { points, range, label, zoomTo }) {
  const hair = make("div", "sidestep-hair");
  const spot = make("div", "sidestep-spot");
  const box = make("div", "sidestep-values");
  const selection = make("div", "sidestep-selection");
  box.setAttribute("aria-live", "polite");
  plot.append(selection, hair, spot, box);
  plot.tabIndex = 0;
  plot.setAttribute("role", "application");
  plot.setAttribute("aria-roledescription", t("chart"));
  let step = null; // that is read
  let began = null; // share of the width where a drag began

  const shareAt = ({ clientX }) => {
    const { left, width } = plot.getBoundingClientRect();
    return (clientX - left) / width;
  };
  const stepAt = (share, [first, last]) => first + Math.min(1, Math.max(0, share)) * (last - first);

  function redraw() {
    const shown = range();
    const values = shown && step !== null ? valuesAt(points(), step) : null;
    const seen = values && values.step >= shown.x[0] && values.step <= shown.x[1];
    for (const element of [hair, spot, box]) element.hidden = !seen;
    if (!seen) return;
    const left = leftOf(values.step, shown);
    hair.style.left = spot.style.left = `${left}%`;
    const curve = values.smoothed ?? values.loss ?? values.heldout;
    spot.hidden = !Number.isFinite(curve);
    if (!spot.hidden) spot.style.top = `${topOf(curve, shown)}%`;
    box.replaceChildren(...rows(values, label()).map((text) => make("div", "", text)));
    box.style.left = left < 50 ? `calc(${left}% + 8px)` : "auto";
    box.style.right = left < 50 ? "auto" : `calc(${100 - left}% + 8px)`;
  }

  function select(to) {
    const [low, high] = [Math.min(began, to), Math.max(began, to)].map((share) => Math.min(1, Math.max(0, share)));
    selection.style.left = `${100 * low}%`;
    selection.style.width = `${100 * (high - low)}%`;
    selection.hidden = false;
  }

  function stopDrag() {
    began = null;
    selection.hidden = true;
  }

  plot.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !range()) return;
    event.stopPropagation(); // the node stays where it is
    plot.setPointerCapture(event.pointerId);
    began = shareAt(event);
  });
  plot.addEventListener("pointermove", (event) => {
    const shown = range();
    if (!shown) return;
    if (began !== null) {
      event.stopPropagation();
      select(shareAt(event));
    }
    step = stepAt(shareAt(event), shown.x);
    redraw();
  });
  plot.addEventListener("pointerup", (event) => {
    if (began === null) return;
    event.stopPropagation();
    const zoom = dragged(began, shareAt(event), range().x);
    stopDrag();
    if (zoom) zoomTo(zoom);
  });
  plot.addEventListener("pointercancel", stopDrag);
  plot.addEventListener("dblclick", (event) => {
    event.stopPropagation();
    zoomTo(null);
  });
  const leave = () => {
    if (began !== null) return;
    step = null;
    redraw();
  };
  plot.addEventListener("pointerleave", leave);
  plot.addEventListener("blur", leave);
  plot.addEventListener("keydown", (event) => {
    const shown = range();
    const all = points();
    if (!shown || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = step ?? shown.x[1];
    const whole = [all[0].step, all.at(-1).step];
    const act = {
      ArrowLeft: () => { step = neighbour(all, at, -1, shown.x); },
      ArrowRight: () => { step = neighbour(all, at, 1, shown.x); },
      "+": () => zoomTo(zoomed(at, ZOOM, shown.x, whole) ?? shown.x),
      "-": () => zoomTo(zoomed(at, 1 / ZOOM, shown.x, whole)),
      0: () => zoomTo(null),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation(); // these are keys of ComfyUI's canvas too
    act();
    redraw();
  });
  stopDrag();
  redraw();
  return { redraw };
}

/** Step of a point so far away that the keys get through a long run, at least the next one. */
function neighbour(points, step, direction, [first, last]) {
  const index = Math.min(indexAt(points, step), points.length - 1);
  const far = indexAt(points, step + direction * KEY_SHARE * (last - first));
  const found = direction > 0 ? Math.max(index + 1, far) : Math.min(index - 1, far);
  return Math.min(last, Math.max(first, points[Math.min(points.length - 1, Math.max(0, found))].step));
}

function rows({ step, loss, smoothed, heldout, heldoutStep, lr }, label) {
  const measuredAt = () => (heldoutStep === step ? "" : ` (${t("step {step}", { step: heldoutStep })})`);
  return [
    t("Step {step}", { step }),
    Number.isFinite(loss) && `${t("Loss")} ${decimal(loss)}`,
    Number.isFinite(smoothed) && `${t("Smoothed")} ${decimal(smoothed)}`,
    Number.isFinite(heldout) && `${label} ${decimal(heldout)}${measuredAt()}`,
    Number.isFinite(lr) && `${t("Learning rate")} ${power(lr)}`,
  ].filter(Boolean);
}
