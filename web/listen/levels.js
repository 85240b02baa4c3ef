// Pure functions: loudness, waveforms, order and names of takes.

import { fixed, t } from "../words.js";

export const BARS = 100; // of a waveform
const LETTERS = "ABCDEFGHI";
const WIDEST = 12; // dB: a take that is far quieter than the loudest does not turn all others down to nothing

/**
 * dB by which each take is turned down to be as loud as the quietest, from LUFS (null: no loudness, left as it is).
 * Nothing is turned up, so nothing is cut off; a take more than WIDEST below the loudest stays quieter.
 */
export function gains(lufs) {
  const known = lufs.filter((value) => value !== null);
  if (known.length < 2) return lufs.map(() => 0);
  const target = Math.max(Math.min(...known), Math.max(...known) - WIDEST);
  return lufs.map((value) => (value === null ? 0 : Math.min(0, target - value)));
}

/** 0 to 1 for a level in dB. */
export const amplitude = (decibels) => 10 ** (decibels / 20);

/** BARS heights along the samples of a channel that is played at a level. */
export function bars(samples, level = 1) {
  const size = samples.length / BARS;
  return Array.from({ length: BARS }, (_, bar) => {
    let highest = 0;
    const stop = Math.floor((bar + 1) * size);
    for (let index = Math.floor(bar * size); index < stop; index += 8) {
      highest = Math.max(highest, Math.abs(samples[index]));
    }
    return highest * level;
  });
}

/** The numbers 0 to count - 1 in random order; `random` returns numbers from 0 to 1, as Math.random. */
export function shuffled(count, random = Math.random) {
  const order = Array.from({ length: count }, (_, index) => index);
  for (let last = count - 1; last > 0; last -= 1) {
    const other = Math.floor(random() * (last + 1));
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}

/** "A" for the first row of a blind test. */
export const letter = (row) => LETTERS[row];

/** "my_lora at 0.7"; the name alone for the base and for previews. */
export const takeName = ({ name, strength }) =>
  (strength ? t("{name} at {strength}", { name, strength: String(strength) }) : name);

/** "-3.2 dB", "as it is" */
export const gainText = (gain) => (gain > -0.05 ? t("as it is") : t("{level} dB", { level: `\u2212${fixed(-gain, 1)}` }));

/** The first, the last and others evenly between, at most `most` of a list. */
export function spread(list, most) {
  if (list.length <= most) return list;
  const step = (list.length - 1) / (most - 1);
  return Array.from({ length: most }, (_, index) => list[Math.round(index * step)]);
}
