// Pure functions: what the server says -> what the panel shows.

import { fixed, locale, number, plural, t, worded } from "../words.js";

export const MAX_POINTS = 4000; // shown before the server is asked for its thinned curve

const STAGES = {
  load: () => t("Loading the model"),
  analyze: () => t("Analyzing songs"),
  split: () => t("Splitting songs"),
  clip: () => t("Cutting clips"),
  preprocess: () => t("Preparing songs"),
  estimate: () => t("Measuring the model"),
  train: () => t("Training"),
  preview: () => t("Generating a preview"),
  save: () => t("Saving the adapter"),
};
const IN_PERCENT = new Set(["analyze", "split", "clip", "preprocess", "estimate", "preview"]);
const ENDINGS = {
  stopping: () => t("Stopping"),
  paused: () => t("Paused"),
  finished: () => t("Finished"),
  cancelled: () => t("Stopped, resumable"),
  failed: () => t("Failed"),
};

/** The state after an event; `state` is the state so far (null before the first event), `event` one websocket event. */
export function advance(state, event) {
  const known = state?.run === event.run ? state : { metrics: {}, points: [], previews: [] };
  const metrics = { ...known.metrics, ...event.metrics };
  if (known.stage !== event.stage && !event.training) metrics.eta_seconds = event.metrics.eta_seconds;
  return {
    ...event,
    message: messageOf(event),
    metrics,
    points: addPoints(known.points, event.points),
    previews: addPreviews(known.previews, event.previews),
  };
}

/** What an event says to people: its sentences, each in their language. */
export const messageOf = ({ message, sentences }) => (sentences?.length ? sentences.map(worded).join(" ") : message);

/** A state whose end is this message, with what was known before. */
export const failed = (state, message) =>
  ({ stage: "load", step: 0, total: 0, metrics: {}, points: [], previews: [], ...state, status: "failed", message });

/** What ComfyUI says against a node before it runs: its own sentence, or ours, which it puts behind the input's name. */
export const refusal = ({ errors }) => errors.map(({ type, message, details }) =>
  (type === "custom_validation_failed" ? details.replace(/^\w+ - /, "") : `${message}: ${details}`)).join(" ");

/** By their steps; a new one takes the place of an earlier one of its step. */
function addPreviews(known, fresh) {
  if (!fresh.length) return known;
  const kept = known.filter(({ step }) => fresh.every((preview) => preview.step !== step));
  return [...kept, ...fresh].sort((a, b) => a.step - b.step);
}

/** A run that goes on from an earlier step repeats steps: what was later makes way.  `known` stays as it is. */
function addPoints(known, fresh) {
  if (!fresh.length) return known;
  const points = known.slice();
  for (const point of fresh) {
    while (points.length && points.at(-1).step > point.step) points.pop();
    const same = points.at(-1)?.step === point.step ? points.pop() : null;
    points.push({ ...same, ...point });
  }
  return points;
}

/** The server's answer, with what events have added since it was written. */
export function withLater(answer, shown) {
  if (answer.status !== "running" || shown?.run !== answer.run || shown.status !== "running") return answer;
  const last = answer.points.at(-1)?.step ?? -1;
  const later = shown.points.filter(({ step }) => step > last);
  return later.length ? { ...answer, ...shown, points: [...answer.points, ...later] } : answer;
}

/** The state that a node's output stands for, when ComfyUI took it from its cache and nothing was reported. */
export function fromOutput({ sidestep: [facts] }) {
  const { adapter, steps = 1, heldout_last: heldout, measured_on = "", songs } = facts;
  const ready = adapter ? t("{file} is in your LoRA list.", { file: fileName(adapter) })
    : plural(songs, "{n} song ready.", "{n} songs ready.");
  const { message = ready, stage = adapter ? "train" : "preprocess" } = facts;
  const metrics = { heldout };
  return { stage, status: "finished", step: steps, total: steps, message, metrics, measured_on, points: [], previews: [] };
}

/** Whether a state tells how this output came about. */
export const explains = (state, { sidestep: [{ adapter }] }) =>
  state?.status === "finished" && (!adapter || state.message.includes(fileName(adapter)));

const fileName = (path) => path.split(/[\\/]/).at(-1);

/** The newest finite number called `key`. */
export function newest(state, key) {
  const value = state.metrics[key];
  if (Number.isFinite(value)) return value;
  return state.points.findLast((point) => Number.isFinite(point[key]))?.[key];
}

/** Whether a training goes on below what is done just now. */
const isBesideTraining = ({ stage, training }) => Boolean(training) && stage !== "train";

export const title = ({ status, stage, training }) => (ENDINGS[status] ?? STAGES[training ? "train" : stage])?.() ?? stage;

/** Line below the training: other work in progress and its share; "" without any. */
export function besideTraining(state) {
  if (state.status !== "running" || !isBesideTraining(state)) return "";
  const { stage, step, total } = state;
  return `${STAGES[stage]?.() ?? stage}${total ? ` ${Math.floor((100 * step) / total)} %` : ""}`;
}

/** How much is done, from 0 to 1; null when nobody can tell. */
export function share({ stage, status, step, total, training }) {
  if (status === "finished") return 1;
  if (training) return training[1] ? Math.min(1, training[0] / training[1]) : null;
  return total && stage !== "load" ? Math.min(1, step / total) : null;
}

/** "step 120 of 1,000" in training, else a percentage: the units of the other stages mean nothing to a person. */
export function count(state) {
  const { stage, status, points, training } = state;
  if (status === "finished" && points.length) return stepsOf(points.at(-1).step);
  const [step, total] = training ?? [state.step, state.total];
  if (!total || stage === "load") return "";
  if (IN_PERCENT.has(stage) && !training) return `${Math.floor(100 * share(state))} %`;
  return stepOf(step, total);
}

export const stepOf = (step, total) => t("step {step} of {total}", { step, total });
export const stepsOf = (n) => plural(n, "{n} step", "{n} steps");

/** "about 2 h 5 min left", or "" when nobody can tell yet. */
export function timeLeft(seconds) {
  if (!Number.isFinite(seconds)) return "";
  return seconds < 50 ? t("less than a minute left") : t("about {time} left", { time: duration(Math.max(60, seconds)) });
}

/** A time: "40 s", "12 min", "2 h 5 min", "5 days"; "-" for none. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "-";
  const minutes = Math.round(seconds / 60);
  if (seconds < 60) return inSeconds(number(Math.floor(seconds)));
  if (minutes < 48 * 60) return inMinutes(minutes);
  return plural(Math.round(minutes / 1440), "{n} day", "{n} days");
}

/** "12 min", "2 h 5 min" */
export const inMinutes = (minutes) => (minutes < 60 ? t("{minutes} min", { minutes })
  : t("{hours} h {minutes} min", { hours: Math.floor(minutes / 60), minutes: minutes % 60 }));

const inSeconds = (seconds) => t("{seconds} s", { seconds });

/** Seconds of a step: "0.42 s", "12 s". */
export const perStep = (seconds) =>
  (Number.isFinite(seconds) ? inSeconds(decimal(seconds, seconds < 0.0995 ? 3 : seconds < 9.95 ? 2 : 0)) : "-");

export const gigabytes = (bytes) => t("{size} GB", { size: decimal(bytes / 2 ** 30, 1) });

/** Memory in use, as {used, predicted} in percent of all, and a text; null where nobody can tell. */
export function memoryUse({ memory_used: used, memory_predicted: predicted, memory_total: total }) {
  if (!Number.isFinite(used) || !(total > 0)) return null;
  const percent = (bytes) => Math.min(100, (100 * bytes) / total);
  const known = Number.isFinite(predicted);
  const sizes = { used: gigabytes(used), total: gigabytes(total), predicted: known && gigabytes(predicted) };
  const text = known ? t("{used} of {total}, {predicted} predicted", sizes) : t("{used} of {total}", sizes);
  return { used: percent(used), predicted: known ? percent(predicted) : null, text };
}

/** Time of day in so many seconds, with the weekday if it is not today; "-" for none. */
export function clock(seconds, now = new Date()) {
  if (!Number.isFinite(seconds)) return "-";
  const then = new Date(now.getTime() + 1000 * seconds);
  const day = then.toDateString() === now.toDateString() ? {} : { weekday: "short" };
  return then.toLocaleTimeString(locale(), { ...day, hour: "2-digit", minute: "2-digit" });
}

const unknown = () => [t("Measured"),
  t("Measured: the same on fixed pieces and noise, of songs that are not known here.")];
const MEASURED = {
  trained: () => [t("Trained songs"), t("Trained songs: the same on fixed pieces and noise of the songs that it trains "
    + "on, as none is held out. It cannot show whether songs are being learned by heart.")],
  held_out: () => [t("Held-out"), t("Held-out: the same on songs that it does not train on; when it rises again, stop.")],
};

/** Label and explanation of the measured loss, by the songs that it was measured on. */
export const measured = (state) => (MEASURED[state.measured_on] ?? unknown)();

/** A loss: "0.412"; a missing one: "-". */
export const decimal = (value, digits = 3) => (Number.isFinite(value) ? fixed(value, digits) : "-");

/** What a preview is called, by the steps before it. */
export const previewName = (step) => (step ? t("step {step}", { step }) : t("before"));

/** Passes over the songs: "2.5", later "34"; cut, not rounded, so that 3 means three whole ones. */
export function passes(value) {
  if (!Number.isFinite(value)) return "-";
  return value < 10 ? decimal(Math.floor(value * 10) / 10, 1) : number(Math.floor(value));
}

/** A learning rate: "1e-4", "9.5e-5". */
export function power(value) {
  if (!Number.isFinite(value)) return "-";
  return value === 0 ? "0" : value.toExponential(1).replace(".0e", "e");
}
