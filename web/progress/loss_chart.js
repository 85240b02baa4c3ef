// Pure functions: points -> ranges, ticks and SVG path data in a 100 x 100 box whose y axis points down.
// A point is {step, loss, smoothed, heldout, ...}; a missing number is skipped, null (not finite) breaks the line.
//
// Named .js although the host then loads it as an extension too: that is the same module and does nothing, while
// an .mjs gets no cache header from the host and stays outdated in the browser after an update of the pack.

import { fixed, number } from "../words.js";

const SIZE = 100;
const OUTLIERS = 0.02; // share of raw losses that may leave the chart at each end: single steps are very noisy
const MARGIN = 0.08; // of the height, above and below the curve
const MOST = 1e100; // larger numbers are left out: their differences would overflow
const COLUMNS = 600; // a longer curve is drawn by its lowest and highest number in each

const quantile = (sorted, share) => sorted[Math.round(share * (sorted.length - 1))];

/** Index of the first point at `step` or later. */
export function indexAt(points, step) {
  let [low, high] = [0, points.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].step < step) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Points whose steps lie in [first, last]; all without a zoom. */
export const inZoom = (points, zoom) =>
  zoom ? points.slice(indexAt(points, zoom[0]), indexAt(points, zoom[1] + 1)) : points;

/**
 * {x: [first, last], y: [low, high], log} of everything drawn, or null while there is nothing to draw; `zoom` is the
 * shown part as [first step, last step].
 */
export function ranges(points, { zoom = null, log = false } = {}) {
  const [begin, end] = zoom ? [indexAt(points, zoom[0]), indexAt(points, zoom[1] + 1)] : [0, points.length];
  const raw = new Float64Array(end - begin);
  let [count, low, high] = [0, Infinity, -Infinity];
  const widen = (value) => {
    if (!isDrawn(value, { log })) return;
    low = Math.min(low, value);
    high = Math.max(high, value);
  };
  for (let index = begin; index < end; index++) {
    const { loss, smoothed, heldout } = points[index];
    if (isDrawn(loss, { log })) raw[count++] = loss;
    widen(smoothed);
    widen(heldout);
  }
  if (count) {
    const sorted = raw.subarray(0, count).sort();
    widen(quantile(sorted, OUTLIERS));
    widen(quantile(sorted, 1 - OUTLIERS));
  }
  if (low > high) return null;
  return { x: zoom ?? spread(points), y: log ? logMargins(low, high) : margins(low, high), log };
}

const spread = (points) => [points[0].step, Math.max(points.at(-1).step, points[0].step + 1)];

function margins(low, high) {
  const margin = (high - low || Math.abs(high) || 1) * MARGIN;
  return [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin];
}

function logMargins(low, high) {
  const factor = Math.max(high / low, 1.1) ** MARGIN;
  return [low / factor, high * factor];
}

/** Where a number lies in [low, high], from 0 to 1; numbers outside are pulled to the nearer end. */
const share = (value, [low, high]) => Math.min(1, Math.max(0, (value - low) / (high - low)));

/** Height of a loss in percent from above. */
export const topOf = (value, { y, log }) =>
  (1 - (log ? share(Math.log(value), y.map(Math.log)) : share(value, y))) * SIZE;

/** Place of a step in percent from the left. */
export const leftOf = (step, { x }) => share(step, x) * SIZE;

const place = (point, key, range) => `${leftOf(point.step, range).toFixed(2)} ${topOf(point[key], range).toFixed(2)}`;

const isDrawn = (value, { log }) => Number.isFinite(value) && Math.abs(value) < MOST && (!log || value > 0);

/** SVG path of the line through the numbers called `key`. */
export function line(points, key, range) {
  let pen = "M";
  const commands = [];
  for (const point of thinned(points, key, range)) {
    if (!isDrawn(point[key], range)) {
      pen = "M";
      continue;
    }
    commands.push(pen + place(point, key, range));
    pen = "L";
  }
  return commands.join("");
}

/** Points with `key`; of a long curve the lowest and the highest in each column that it is drawn in. */
function thinned(points, key, range) {
  const [begin, end] = [indexAt(points, range.x[0]), indexAt(points, range.x[1] + 1)];
  if (end - begin <= 2 * COLUMNS) return points.slice(begin, end).filter((point) => point[key] !== undefined);
  const kept = [];
  const perStep = COLUMNS / (range.x[1] - range.x[0]);
  let [column, low, high] = [-1, null, null];
  const close = () => {
    if (low && low !== high) kept.push(...(low.step < high.step ? [low, high] : [high, low]));
    else if (low) kept.push(low);
  };
  for (let index = begin; index < end; index++) {
    const point = points[index];
    if (point[key] === undefined) continue;
    const own = Math.floor((point.step - range.x[0]) * perStep);
    if (own !== column) {
      close();
      [column, low, high] = [own, point, point];
    } else if (!(point[key] >= low[key])) low = point;
    else if (point[key] > high[key]) high = point;
  }
  close();
  return kept;
}

/** SVG path of one dot per number called `key`: strokes of no length, which round line caps make visible. */
export function dots(points, key, range) {
  return inZoom(points, range.x)
    .filter((point) => isDrawn(point[key], range))
    .map((point) => `M${place(point, key, range)}h0`)
    .join("");
}

/** SVG path of the error bars of the held-out losses that have one. */
export function errorBars(points, range) {
  const bars = inZoom(points, range.x).filter((point) => isDrawn(point.heldout, range) && point.heldout_error > 0 && point.heldout_error < MOST);
  return bars.map(({ step, heldout, heldout_error: error }) => {
    const low = range.log ? Math.max(heldout - error, range.y[0]) : heldout - error;
    return `M${place({ step, end: heldout + error }, "end", range)}V${topOf(low, range).toFixed(2)}`;
  }).join("");
}

/** Three to six round numbers inside [low, high], each with its height: [{label, top}], top in percent from above. */
export function ticks([low, high]) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.9);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let index = Math.ceil(low / step); index * step <= high; index++) {
    found.push({ label: fixed(index * step, decimals), top: (1 - share(index * step, [low, high])) * SIZE });
  }
  return found;
}

/** Ticks of a range, on a log scale at 1, 2 and 5 times powers of ten; where fewer than three fit, as on a linear one. */
export function ticksOf(range) {
  if (!range.log) return ticks(range.y);
  const [low, high] = range.y;
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const factor of [1, 2, 5]) {
      const value = Number(`${factor}e${power}`);
      const label = number(value, { maximumSignificantDigits: 3 });
      if (value >= low && value <= high) found.push({ label, top: topOf(value, range) });
    }
  }
  if (found.length > 2) return found;
  return ticks(range.y).map(({ label, top }) => ({ label, top: topOf(high - ((high - low) * top) / SIZE, range) }));
}

/** Numbers at the point next to `step`: {step, loss, smoothed, lr, heldout, heldoutStep}; null without any point. */
export function valuesAt(points, step) {
  if (!points.length) return null;
  const after = Math.min(indexAt(points, step), points.length - 1);
  const before = Math.max(0, after - 1);
  const nearest = step - points[before].step < points[after].step - step ? before : after;
  const { step: shown, loss, smoothed, lr } = points[nearest];
  const measured = points.findLast((point, index) => index <= nearest && Number.isFinite(point.heldout));
  return { step: shown, loss, smoothed, lr, heldout: measured?.heldout, heldoutStep: measured?.step };
}

/**
 * Marks of a run: [{kind: "saved" | "preview" | "best", step, value?}].  The best one is the held-out loss that the run
 * took for the best, else the lowest of a trained adapter; of trained songs there is none.
 */
export function marks({ points, previews, saved = [], measured_on }) {
  const measured = measured_on === "held_out" ? points.filter(({ step, heldout }) => step > 0 && Number.isFinite(heldout)) : [];
  const best = measured.find(({ step }) => step === measured.at(-1).best_step)
    ?? measured.reduce((lowest, point) => (lowest && lowest.heldout <= point.heldout ? lowest : point), null);
  return [
    ...saved.map((step) => ({ kind: "saved", step })),
    ...previews.filter(({ message }) => !message).map(({ step }) => ({ kind: "preview", step })),
    ...(best ? [{ kind: "best", step: best.step, value: best.heldout }] : []),
  ];
}
