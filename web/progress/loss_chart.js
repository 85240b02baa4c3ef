// Pure functions: points -> ranges, ticks and SVG path data in a 100 x 100 box whose y axis points down.
// A point is {step, loss, smoothed, heldout, ...}; a missing number is skipped, null (not finite) breaks the line.
//
// Named .js although the host then loads it as an extension too: that is the same module and does nothing, while
// an .mjs gets no cache header from the host and stays outdated in the browser after an update of the pack.

const SIZE = 100;
const OUTLIERS = 0.02; // share of raw losses that may leave the chart at each end: single steps are very noisy

const numbers = (points, key) => points.map((point) => point[key]).filter(Number.isFinite);

const quantile = (sorted, share) => sorted[Math.round(share * (sorted.length - 1))];

/** {x: [first, last], y: [low, high]} of everything drawn, or null while there is nothing to draw. */
export function ranges(points) {
  const raw = numbers(points, "loss").sort((a, b) => a - b);
  const values = [...numbers(points, "smoothed"), ...numbers(points, "heldout")];
  if (raw.length) values.push(quantile(raw, OUTLIERS), quantile(raw, 1 - OUTLIERS));
  if (!values.length) return null;
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  const margin = (high - low || Math.abs(high) || 1) * 0.08;
  return {
    x: [points[0].step, Math.max(points.at(-1).step, points[0].step + 1)],
    y: [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin],
  };
}

/** Where a number lies in [low, high], from 0 to 1; numbers outside are pulled to the nearer end. */
const share = (value, [low, high]) => Math.min(1, Math.max(0, (value - low) / (high - low)));

const place = (point, key, { x, y }) =>
  `${(share(point.step, x) * SIZE).toFixed(2)} ${((1 - share(point[key], y)) * SIZE).toFixed(2)}`;

/** SVG path of the line through the numbers called `key`. */
export function line(points, key, range) {
  let pen = "M";
  const commands = [];
  for (const point of points) {
    if (point[key] === undefined) continue;
    if (!Number.isFinite(point[key])) {
      pen = "M";
      continue;
    }
    commands.push(pen + place(point, key, range));
    pen = "L";
  }
  return commands.join("");
}

/** SVG path of one dot per number called `key`: strokes of no length, which round line caps make visible. */
export function dots(points, key, range) {
  return points
    .filter((point) => Number.isFinite(point[key]))
    .map((point) => `M${place(point, key, range)}h0`)
    .join("");
}

/** Three to six round numbers inside [low, high], each with its height: [{value, top}], top in percent from above. */
export function ticks([low, high]) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.9);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let index = Math.ceil(low / step); index * step <= high; index++) {
    found.push({ label: (index * step).toFixed(decimals), top: (1 - share(index * step, [low, high])) * SIZE });
  }
  return found;
}
