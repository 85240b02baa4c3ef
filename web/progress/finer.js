// Finer points of the part of a long run that is zoomed into, of which the page has only some.

import { inZoom, indexAt } from "./loss_chart.js";

const ENOUGH = 1000; // points in sight that need no finer ones

/**
 * {points(state), ask(state, zoom or null)}; `read(run, {after, until})` asks the server, `arrived()` is called when
 * `points` has finer ones.
 */
export function createFiner({ read, arrived }) {
  let part = null; // {run, first, last, rows}
  let merged = { of: null, part: null, points: [] };
  let newest = 0;

  /** Points of a state, with the finer ones in their place. */
  function points(state) {
    if (!part || part.run !== state.run) return state.points;
    if (merged.of !== state.points || merged.part !== part) {
      const { first, last, rows } = part;
      const [begin, end] = [indexAt(state.points, first), indexAt(state.points, last + 1)];
      merged = { of: state.points, part, points: [...state.points.slice(0, begin), ...rows, ...state.points.slice(end)] };
    }
    return merged.points;
  }

  /** Ask the server for finer points of a zoom, if the page has few of them. */
  async function ask(state, zoom) {
    const request = ++newest;
    if (!zoom) part = null;
    if (!zoom || !state.run) return;
    const [first, last] = zoom;
    const known = inZoom(points(state), zoom).length;
    if (known >= ENOUGH || known > last - first) return;
    try {
      const { rows } = await read(state.run, { after: first - 1, until: last });
      if (request !== newest || rows.length <= known) return;
      part = { run: state.run, first, last: Math.max(last, rows.at(-1).step), rows };
      arrived();
    } catch {
      // A run that is on no disk has no other points than those in sight, which stay.
    }
  }

  return { points, ask };
}
