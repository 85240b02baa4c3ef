// Runs as the server lists them, kept up to date by events, for every part of the page that shows them.

import { api } from "../../../scripts/api.js";
import { isUnderWay, withEvent } from "./run_words.js";
import { listRuns } from "./server.js";

const EVENT = "sidestep.progress";
const BETWEEN = 3000; // milliseconds between two questions for the list while a training goes on
const SETTLED = 300; // milliseconds after a change of state
const WITHOUT_EVENTS = 10_000; // milliseconds, for a run whose end nobody reports

const watchers = new Set(); // functions of (runs, failure)
const phases = new Map(); // run -> status and stage of its latest event
const left = new Map(); // run -> seconds left, which only events know
let runs = null; // before the first answer
let failure = "";
let asking = Promise.resolve();
let asked = 0; // when the list was asked for
let timer = 0;
let due = 0; // when the timer asks
let frame = 0;

/** Call `watcher(runs, failure)` at every change until the returned function is called; runs are null at first. */
export function watchRuns(watcher) {
  if (!watchers.size) {
    api.addEventListener(EVENT, onProgress);
    api.addEventListener("reconnected", refreshRuns);
  }
  watchers.add(watcher);
  notify();
  void refreshRuns();
  return () => {
    watchers.delete(watcher);
    if (watchers.size) return;
    api.removeEventListener(EVENT, onProgress);
    api.removeEventListener("reconnected", refreshRuns);
    clearTimeout(timer);
    timer = 0;
  };
}

/** Ask for the list, after the answer that is on its way. */
export function refreshRuns() {
  clearTimeout(timer);
  timer = 0;
  asking = asking.then(ask);
  return asking;
}

async function ask() {
  asked = Date.now();
  try {
    const found = await listRuns();
    runs = found.map((run) => ({ ...run, eta: left.get(run.id) }));
    failure = "";
  } catch (error) {
    failure = error.message;
  }
  if (watchers.size && runs?.some(isUnderWay)) soon(WITHOUT_EVENTS);
  notify();
}

function onProgress({ detail: event }) {
  const phase = `${event.status} ${event.stage}`;
  const isNew = phases.get(event.run) !== phase;
  const known = runs?.some(({ id }) => id === event.run);
  phases.set(event.run, phase);
  if (known) {
    left.set(event.run, event.metrics.eta_seconds ?? left.get(event.run));
    runs = runs.map((run) => (run.id === event.run ? withEvent(run, event) : run));
    notify();
  }
  if (isNew && (known || event.training)) soon(SETTLED); // the end of a run is on the disk after its event
  else if (event.training) soon(Math.max(SETTLED, asked + BETWEEN - Date.now()));
}

/** Ask in so many milliseconds, unless that is to happen sooner. */
function soon(wait) {
  const at = Date.now() + wait;
  if (timer && due <= at) return;
  clearTimeout(timer);
  due = at;
  timer = setTimeout(refreshRuns, wait);
}

/** Many events in a row are drawn once. */
function notify() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    for (const watcher of watchers) watcher(runs, failure);
  });
}
