// Pure functions: runs and their curves -> what a comparison draws.

import { ranges, valuesAt } from "../progress/loss_chart.js";
import { t } from "../words.js";

const NOT_COMPARED = new Set(["device", "tensorboard", "log_every", "log_heavy_every", "keep_checkpoints"]);

/** The range of several curves of the numbers called `key` in one chart; null while there is nothing to draw. */
export function commonRange(curves, key, log) {
  const found = curves.filter((points) => points.length)
    .map((points) => ranges(points.map((point) => ({ step: point.step, [key]: point[key] })), { log }))
    .filter(Boolean);
  if (!found.length) return null;
  const ends = (axis) => [Math.min(...found.map((range) => range[axis][0])), Math.max(...found.map((range) => range[axis][1]))];
  return { x: ends("x"), y: ends("y"), log };
}

/** The number called `key` of each curve at a step, or the latest before it: [{step, value}]; null past its end. */
export function readAt(curves, key, step) {
  return curves.map((points) => {
    if (!points.length || step < points[0].step || step > points.at(-1).step) return null;
    const { step: nearest } = valuesAt(points, step);
    const point = points.findLast((each) => each.step <= nearest && Number.isFinite(each[key]));
    return point ? { step: point.step, value: point[key] } : null;
  });
}

/** [[setting, [text of each run]], ...] of the settings in which the runs differ. */
export function differences(runs) {
  const all = runs.map(flat);
  const names = [...new Set(all.flatMap((each) => Object.keys(each)))];
  return names
    .map((name) => [name, all.map((each) => each[name] ?? "-")])
    .filter(([, texts]) => new Set(texts).size > 1);
}

/** Settings by the names of their widgets, and what else a run was made from. */
function flat({ settings, songs, minutes, model, total }) {
  const own = Object.entries({ ...settings.adapter, ...settings.train })
    .filter(([name]) => !NOT_COMPARED.has(name))
    .map(([name, value]) => [name, text(value)]);
  const made = { [t("model")]: model, [t("songs")]: songs, [t("minutes")]: Math.round(minutes), [t("steps")]: total };
  return Object.fromEntries([...Object.entries(made).map(([name, value]) => [name, text(value)]), ...own]);
}

function text(value) {
  if (value === null || value === undefined || value === "") return "-";
  if (typeof value === "boolean") return value ? t("on") : t("off");
  if (typeof value === "number") return String(value);
  return typeof value === "string" ? value : JSON.stringify(value).replaceAll(/[[\]{}"]/g, "").replaceAll(",", ", ");
}
