// A line of text below the widgets of nodes that have no panel: what they amounted to in the latest run, or what went
// wrong.  Where there is nothing to say it takes no room.

import { make } from "./elements.js";

const CAPACITY = "Run the workflow: how many parameters this makes is shown here.";
const HINTS = {
  SideStepConfigureLoRA: CAPACITY,
  SideStepConfigureLoKR: CAPACITY,
  SideStepConfigureLoHA: CAPACITY,
  SideStepDatasetCache: "Run the workflow: how much room the dataset takes is shown here.",
  SideStepImportTensors: "Run the workflow: what was imported is shown here.",
};
const HEIGHT = { message: 50, failure: 90 }; // in pixels

/** Whether the node says how many parameters its widgets make. */
export const hasCapacity = ({ comfyClass }) => HINTS[comfyClass] === CAPACITY;

/** {element, show(state), height() in pixels}, like a panel. */
export function createNote(node) {
  const element = make("div", "sidestep-capacity");
  let height = 0;

  function show(state) {
    const failed = state?.status === "failed";
    const text = failed ? state.message : state?.output?.message || node.properties.capacity || HINTS[node.comfyClass] || "";
    if (!failed && state?.output?.message) node.properties.capacity = text; // saved with the workflow
    element.textContent = element.title = text;
    element.dataset.status = state?.status ?? "idle";
    if (failed) element.setAttribute("role", "alert");
    else element.removeAttribute("role");
    height = text ? (failed ? HEIGHT.failure : HEIGHT.message) : 0;
    element.hidden = !text;
  }

  const { onConfigure } = node;
  node.onConfigure = function () {
    onConfigure?.apply(this, arguments);
    if (!node.widgets.find((widget) => widget.panel?.state)) show(null);
  };
  show(null);
  return { element, show, height: () => height };
}
