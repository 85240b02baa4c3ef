// Pure functions: a run as the server describes it -> words, groups and shapes of the list.

import { decimal, inMinutes, stepOf, stepsOf, timeLeft } from "../progress/progress.js";
import { locale, number, t } from "../words.js";

const STATUS = {
  running: () => t("Training"),
  stopping: () => t("Stopping"),
  paused: () => t("Paused"),
  stopped: () => t("Stopped"),
  finished: () => t("Finished"),
  failed: () => t("Failed"),
};
const UNDER_WAY = new Set(["running", "stopping", "paused"]);
const DAY = 24 * 60 * 60 * 1000;

/** True for a run that holds the model just now. */
export const isUnderWay = ({ status }) => UNDER_WAY.has(status);

export const statusWord = ({ status }) => STATUS[status]?.() ?? status;

/** "Training · step 412 of 1,000 · about 6 min left". */
export function statusLine(run) {
  const { step, total, status, eta } = run;
  const made = status === "finished" ? stepsOf(step) : total ? stepOf(step, total) : t("step {step}", { step });
  return joined([statusWord(run), made, status === "running" && timeLeft(eta)]);
}

/** "best 0.412 at step 800 · 12 min"; of a run that failed, the reason. */
export function resultLine(run) {
  const { best, loss, status, message } = run;
  if (status === "failed" && message) return message;
  const result = best ? t("best {loss} at step {step}", { loss: decimal(best.loss), step: best.step })
    : Number.isFinite(loss) && t("loss {loss}", { loss: decimal(loss) });
  return joined([result, isUnderWay(run) ? "" : spent(run)]);
}

const joined = (parts) => parts.filter(Boolean).join(" · ");

/** "12 min", "1 h 5 min": the time between start and end; "" while that is not known. */
export function spent({ started, ended }) {
  if (!Number.isFinite(ended) || !Number.isFinite(started) || ended < started) return "";
  const minutes = Math.round((ended - started) / 60);
  return minutes < 1 ? t("under a minute") : inMinutes(minutes);
}

const midnight = (now) => new Date(now).setHours(0, 0, 0, 0);

/** "14:05" for the last two days, which have headings of their own, else "12 Nov", "12 Nov 2024". */
export function moment(started, now) {
  const date = new Date(started * 1000);
  if (date >= midnight(now) - DAY) return date.toLocaleTimeString(locale(), { hour: "2-digit", minute: "2-digit" });
  const year = date.getFullYear() === new Date(now).getFullYear() ? undefined : "numeric";
  return date.toLocaleDateString(locale(), { day: "numeric", month: "short", year });
}

/** Names of runs, with the time of their start where several have the same. */
export function labels(runs, now) {
  const shared = ({ name }) => runs.filter((each) => each.name === name).length > 1;
  return runs.map((run) => (shared(run) ? `${run.name}, ${moment(run.started, now)}` : run.name));
}

/** Heading that a run stands below. */
export function heading(run, now) {
  if (isUnderWay(run)) return t("In progress");
  const time = run.started * 1000;
  if (time >= midnight(now)) return t("Today");
  if (time >= midnight(now) - DAY) return t("Yesterday");
  return time >= midnight(now) - 6 * DAY ? t("Last 7 days") : t("Earlier");
}

/** [[heading, runs], ...]: what is in progress first, then newest first. */
export function grouped(runs, now) {
  const groups = new Map([[t("In progress"), []]]);
  for (const run of runs) {
    const name = heading(run, now);
    groups.set(name, [...(groups.get(name) ?? []), run]);
  }
  return [...groups].filter(([, members]) => members.length);
}

/** Whether every word of a search occurs in what people see of a run. */
export function matches(run, search) {
  const seen = [run.name, run.id, statusWord(run), run.kind, run.model, run.note, ...run.files].join(" ").toLowerCase();
  return search.toLowerCase().split(/\s+/).every((word) => seen.includes(word));
}

/** SVG path of a small curve in a box of 100 x 100. */
export function sparkline(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const width = Math.max(1, values.length - 1);
  const top = (value) => (high > low ? 100 - (100 * (value - low)) / (high - low) : 50);
  const places = values.map((value, index) => `${((100 * index) / width).toFixed(1)} ${top(value).toFixed(1)}`);
  return values.length > 1 ? `M${places.join("L")}` : "";
}

/** [[label, text], ...] of what a run was made from. */
export function facts({ songs, minutes, kind, model, settings, files, by_heart: known }) {
  const rank = settings.adapter?.rank;
  const length = minutes >= 1 ? `, ${inMinutes(Math.round(minutes))}` : "";
  return [
    [t("Songs"), songs ? `${number(songs)}${length}` : ""],
    [t("Adapter"), [kind && kind.toUpperCase().replace("LORA", "LoRA").replace("LOHA", "LoHA").replace("LOKR", "LoKR"),
      rank && t("rank {rank}", { rank })].filter(Boolean).join(", ")],
    [t("Model"), model],
    [t("In your LoRA list"), files.join(", ")],
    [t("Learned by heart"), known.join(", ")],
  ].filter(([, text]) => text);
}

/** A run with what an event of it says later than the server's list. */
export function withEvent(run, { status, training, metrics, total, step }) {
  const [made, all] = training ?? [step, total];
  const named = status === "cancelled" ? "stopped" : status;
  return {
    ...run,
    status: named,
    step: made || run.step,
    total: all || run.total,
    loss: metrics.smoothed ?? metrics.loss ?? run.loss,
    eta: metrics.eta_seconds ?? run.eta,
  };
}
