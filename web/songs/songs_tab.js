// The tab Songs of the sidebar.

import { make } from "../dom.js";

/** {element, shown(), hidden()}. */
export function createSongsTab() {
  const text = "Songs are shown on the node Build Dataset: add it to the workflow and choose a folder.";
  return { element: make("p", "sidestep-empty", text), shown() {}, hidden() {} };
}
