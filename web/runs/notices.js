// Notices of a training for people who look elsewhere: its progress in the title of the page, and a toast at its end.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { claim } from "./claims.js";
import { ending, firstName, progressTitle } from "./endings.js";
import { readRun } from "./server.js";
import { createTitle } from "./title.js";

const EVENT = "sidestep.progress";
const UNDER_WAY = new Set(["running", "stopping", "paused"]);
const LIFE = 20_000; // milliseconds of a toast about a training that went well; others stay

const names = new Map(); // run that trains, or trained while this page was open -> its name
const title = createTitle();

/** Follow the trainings of the server. */
export function followTrainings() {
  api.addEventListener(EVENT, ({ detail }) => void onProgress(detail));
  api.addEventListener("reconnected", () => title.restore()); // a restart ends a training without an event
}

async function onProgress(event) {
  const { run, status, training } = event;
  if (UNDER_WAY.has(status)) {
    if (!training) return;
    if (!names.has(run)) await learnName(run);
    if (names.has(run)) title.show(progressTitle(training, names.get(run))); // or it has ended since
  } else if (names.has(run)) {
    const name = names.get(run);
    names.delete(run);
    title.restore();
    if (training) await notify(event, name);
  }
}

async function learnName(run) {
  names.set(run, firstName(run));
  try {
    names.set(run, (await readRun(run)).name);
  } catch {
    // The run has no folder yet; the first name is good enough.
  }
}

/** One toast for each end, in the first page of this browser that is looked at. */
async function notify(event, name) {
  const time = Date.now();
  await inSight();
  if (!(await claim(`${event.run} ${event.status}`, time))) return;
  const content = ending(event, name);
  app.extensionManager.toast.add({ ...content, ...(event.status === "finished" ? { life: LIFE } : {}) });
}

function inSight() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", function look() {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    });
  });
}
