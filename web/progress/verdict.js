// Reads the curve: one sentence, from the numbers alone.  docs/guide/training.md has the rules for people.
//
// The newest window of a curve is cut in halves.  It falls or rises if the means of its halves differ by more than
// noise explains; noise is estimated from each value's distance to its neighbours, which no trend enters.  The smallest
// window that falls or rises decides, if it is recent; all smaller ones together are the flat part.

import { plural, t } from "../words.js";

const SURE = 4.5; // standard errors between the halves
const VISIBLE = 0.005; // change that counts at all, as a share of the loss
const NOTICED = 0.05; // nothing is called flat while a change of this share could hide in the noise
const RECENT = 1 / 3; // share of the curve
const GROWTH = 1.25; // from one window to the next
const FEWEST = { loss: 40, measured: 6 }; // values before there is a sentence
const OUTLIERS = 0.02; // share at each end that is pulled in: one wild step is no trend
const AFTER_BEST = 3; // measurements after the best one before it is called past
const UNDER_WAY = new Set(["running", "stopping", "paused"]);

/** {kind: "falling" | "flat" | "rising" | "unknown", sentence}; the sentence is "" while there is no curve. */
export function verdict(state) {
  const { kind, sentence } = reading(state);
  return { kind, sentence: [sentence, alarm(state)].filter(Boolean).join(" ") };
}

/** A sentence on the songs that the run watched last and found to be learned by heart; "" if there is none. */
function alarm({ points }) {
  const songs = points.findLast(({ by_heart }) => Number.isFinite(by_heart))?.by_heart ?? 0;
  return songs ? plural(songs, "{n} song is being learned by heart: fewer steps, more songs, a lower rank or an earlier "
    + "checkpoint help.", "{n} songs are being learned by heart: fewer steps, more songs, a lower rank or an earlier "
    + "checkpoint help.") : "";
}

function reading({ points, measured_on, status }) {
  const measured = valuesOf(points, "heldout");
  const ended = !UNDER_WAY.has(status);
  if (measured.length >= FEWEST.measured) {
    const found = trend(measured.map(({ value }) => value), FEWEST.measured);
    return { kind: found.kind, sentence: sentence(found, measured, ended, measured_on === "held_out") };
  }
  const losses = valuesOf(points, "loss");
  const settled = losses.slice(0, losses.length - (losses.length % quantum(losses.length)));
  const found = trend(clipped(settled.map(({ value }) => value)), FEWEST.loss);
  return { kind: found.kind, sentence: losses.length ? sentence(found, settled, ended, false) : "" };
}

const valuesOf = (points, key) =>
  points.filter((point) => Number.isFinite(point[key])).map((point) => ({ step: point.step, value: point[key] }));

/** The newest values wait until there are so many: a curve on the edge would change its name with each of them. */
const quantum = (count) => 2 ** Math.max(0, Math.floor(Math.log2(count / 16)));

function clipped(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  const [low, high] = [at(OUTLIERS), at(1 - OUTLIERS)];
  return values.map((value) => Math.min(high, Math.max(low, value)));
}

/** {kind, length} of the newest part of a curve, in values. */
export function trend(values, fewest) {
  const count = values.length;
  if (count < fewest) return { kind: "unknown", length: count };
  const sums = new Float64Array(count + 1);
  for (let index = 0; index < count; index++) sums[index + 1] = sums[index] + values[index];
  const mean = (begin, end) => (sums[end] - sums[begin]) / (end - begin);
  const error = SURE * (1 + 4 / (count - 2)) * noise(values); // few values know their noise badly
  const hidden = (length) => error * Math.sqrt(2 / Math.floor(length / 2));
  const flat = (length) => hidden(length) <= NOTICED * Math.abs(mean(count - length, count));

  let level = 0; // length of the longest window without a trend
  for (let length = fewest; level < count; length = Math.min(count, Math.ceil(length * GROWTH))) {
    const half = Math.floor(length / 2);
    const newer = mean(count - half, count);
    const older = mean(count - 2 * half, count - half);
    if (Math.abs(older - newer) > Math.max(hidden(length), VISIBLE * Math.abs(newer))) {
      const recent = length <= Math.max(fewest, RECENT * count);
      if (!recent && flat(level || length)) return { kind: "flat", length: level };
      return { kind: older > newer ? "falling" : "rising", length };
    }
    level = length;
  }
  return { kind: flat(count) ? "flat" : "unknown", length: count };
}

/** Standard deviation of the noise, from second differences. */
function noise(values) {
  let sum = 0;
  for (let index = 1; index < values.length - 1; index++) {
    sum += (values[index] - (values[index - 1] + values[index + 1]) / 2) ** 2;
  }
  return Math.sqrt(sum / (values.length - 2) / 1.5);
}

/** `heldOut`: the values are of songs that are not trained on; no others can tell that songs are learned by heart. */
function sentence({ kind, length }, values, ended, heldOut) {
  const steps = values.at(-1).step - values.at(-length).step;
  if (kind === "falling") return ended ? t("Still falling at the end: more steps may help.") : t("Falling: go on.");
  if (kind === "flat") return ended ? t("Flat for the last {steps} steps: more will hardly help.", { steps })
    : t("Flat for {steps} steps: more will hardly help.", { steps });
  if (kind === "rising") {
    const best = values.reduce((lowest, value) => (value.value < lowest.value ? value : lowest));
    const after = values.length - 1 - values.indexOf(best);
    if (!heldOut) return t("Rising for {steps} steps: a lower learning rate may help.", { steps });
    if (after < AFTER_BEST) return t("Rising lately: wait for another measurement.");
    return t("Rising since step {step}, which was the best: songs are being learned by heart.", { step: best.step });
  }
  return ended ? t("Too short to tell.") : t("Too early to tell.");
}
