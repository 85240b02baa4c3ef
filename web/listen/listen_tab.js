// The tab Listen of the sidebar.

import { make } from "../dom.js";

/** {element, shown(), hidden()}. */
export function createListenTab() {
  const text = "Previews of a training are played on the node Train LoRA: set preview_every to get them.";
  return { element: make("p", "sidestep-empty", text), shown() {}, hidden() {} };
}
