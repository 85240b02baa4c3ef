// A line of text below the widgets of nodes that have no panel: what they amounted to in the latest run, or what went
// wrong.  Where there is nothing to say it takes no room.

import { make } from "../dom.js";
import { t } from "../words.js";

const capacity = () => t("Run the workflow: how many parameters this makes is shown here.");
const HINTS = {
  SideStepConfigureLoRA: capacity,
  SideStepConfigureLoKR: capacity,
  SideStepConfigureLoHA: capacity,
  SideStepDatasetCache: () => t("Run the workflow: how much room the dataset takes is shown here."),
  SideStepImportTensors: () => t("Run the workflow: what was imported is shown here."),
};
const HEIGHT = { message: 50, failure: 90 }; // in pixels

/** Whether the node says how many parameters its widgets make. */
export const hasCapacity = ({ comfyClass }) => HINTS[comfyClass] === capacity;

/** {element, show(state), height() in pixels}, like a panel. */
export function createNote(node) {
  const element = make("div", "sidestep-capacity");
  let height = 0;

  /** Message of the latest result, "" if none; before there is one, the message saved with the workflow. */
  function messageOf(output) {
    if (!Object.keys(output ?? {}).length) return node.properties.capacity || HINTS[node.comfyClass]?.() || "";
    const text = output.message ?? "";
    node.properties.capacity = output.warning ? "" : text; // a warning is of one run
    return text;
  }

  function show(state) {
    const failed = state?.status === "failed";
    const wrong = failed || Boolean(state?.output?.warning);
    const text = failed ? state.message : messageOf(state?.output);
    element.textContent = element.title = text;
    element.dataset.status = failed || !wrong ? (state?.status ?? "idle") : "warned";
    if (wrong) element.setAttribute("role", "alert");
    else element.removeAttribute("role");
    height = text ? (wrong ? HEIGHT.failure : HEIGHT.message) : 0;
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
