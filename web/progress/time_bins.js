// The loss by time: five numbers with a bar each, from nearly clean audio (fine texture) to nearly pure noise (structure).

import { make } from "../dom.js";
import { t } from "../words.js";
import { decimal, measured, newest } from "./progress.js";

const CENTRES = ["0.1", "0.3", "0.5", "0.7", "0.9"]; // as in the names of the metrics
const help = (dot) => t("The loss by time of the noise. Low times (left) are nearly clean audio: there the model learns "
  + "detail and texture. High times (right) are nearly pure noise: there it learns structure. "
  + "Bar: the steps of training. Dot: {dot}.", { dot });

/** [{centre, loss, heldout, bar, dot}] from low to high times, bars and dots in percent; [] while none is known. */
export function timeBins(state) {
  const bins = CENTRES.map((centre) => ({
    centre,
    loss: newest(state, `t${centre}`),
    heldout: newest(state, `heldout_t${centre}`),
  }));
  const known = bins.flatMap(({ loss, heldout }) => [loss, heldout]).filter(Number.isFinite);
  if (!known.length) return [];
  const most = Math.max(...known) || 1;
  const percent = (value) => (Number.isFinite(value) ? Math.max(0, (100 * value) / most) : null);
  return bins.map((bin) => ({ ...bin, bar: percent(bin.loss), dot: percent(bin.heldout) }));
}

/** {element, show(state), height() in pixels}. */
export function createTimeBins(height) {
  const row = make("div", "sidestep-bins");
  const element = make("div", "sidestep-times", make("span", "", t("Detail")), row, make("span", "", t("Structure")));

  function show(state) {
    const bins = timeBins(state);
    const label = measured(state)[0].toLowerCase();
    element.title = help(label);
    element.hidden = !bins.length;
    row.replaceChildren(...bins.map((bin) => cell(bin, label)));
  }

  return { element, show, height: () => (element.hidden ? 0 : height) };
}

function cell({ centre, loss, heldout, bar, dot }, label) {
  const track = make("div", "sidestep-track");
  if (bar !== null) track.append(placed("sidestep-bin", "width", bar));
  if (dot !== null) track.append(placed("sidestep-dot", "left", dot));
  const number = make("div", "", decimal(loss ?? heldout, 2));
  const text = t("Time {time}: loss {loss}, {label} {measured}",
    { time: decimal(Number(centre), 1), loss: decimal(loss), label, measured: decimal(heldout) });
  const element = make("div", "sidestep-time", number, track);
  element.title = `${text}. ${help(label)}`;
  element.setAttribute("aria-label", text);
  element.setAttribute("role", "img");
  return element;
}

function placed(className, side, percent) {
  const element = make("div", className);
  element.style[side] = `${percent}%`;
  return element;
}
