// The tab Runs of the sidebar.

import { make } from "../dom.js";

/** {element, shown(), hidden()}. */
export function createRunsTab() {
  return { element: make("p", "sidestep-empty", "No training yet."), shown() {}, hidden() {} };
}
