// Shows what a connected preset sets in the widgets of a training that do not count meanwhile.  What a person entered there
// stays in the workflow and in what is sent to run, and comes back when the preset is disconnected.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const INPUT = "settings";
const PRESET = "SideStepLoadPreset";
const OF_PRESET = ["preset", "changes", "json"];

/** Let the widgets of Train LoRA (ACE-Step) follow the preset that is connected. */
export function showPresetValues(node) {
  const own = new Map(); // widget -> what the person entered
  let request = 0;

  async function update() {
    const asked = ++request;
    const settings = await settingsOf(presetOf(node));
    if (asked !== request) return; // something was changed meanwhile
    for (const widget of node.widgets) {
      if (settings && widget.name in settings) show(widget, settings[widget.name]);
      else if (own.has(widget)) giveBack(widget);
    }
    app.canvas.setDirty(true, true);
  }

  function show(widget, value) {
    if (!own.has(widget)) own.set(widget, widget.value);
    widget.value = value;
    // The classic canvas writes nothing into a widget that is disabled.
    Object.defineProperty(widget, "_displayValue", { configurable: true, get: () => text(widget) });
  }

  function giveBack(widget) {
    widget.value = own.get(widget);
    own.delete(widget);
    delete widget._displayValue;
  }

  for (const widget of node.widgets) {
    const { serializeValue } = widget;
    widget.serializeValue = function () {
      if (own.has(widget)) return own.get(widget);
      return serializeValue ? serializeValue.apply(this, arguments) : widget.value;
    };
  }
  const { onSerialize, onConfigure, onConnectionsChange } = node;
  node.onSerialize = function (saved) {
    onSerialize?.apply(this, arguments);
    node.widgets.forEach((widget, index) => {
      if (own.has(widget) && saved.widgets_values) saved.widgets_values[index] = own.get(widget);
    });
  };
  node.onConfigure = function () {
    onConfigure?.apply(this, arguments);
    own.clear(); // the widgets hold what was saved, which is the person's
    void update();
  };
  node.onConnectionsChange = function () {
    onConnectionsChange?.apply(this, arguments);
    void update();
  };
  node.presetChanged = update;
}

/** Have the trainings that a preset is connected to show what it sets now. */
export function watchPreset(node) {
  const tell = () => {
    for (const output of node.outputs) {
      for (const link of output.links ?? []) node.graph?.getNodeById(node.graph.links.get(link)?.target_id)?.presetChanged?.();
    }
  };
  for (const widget of node.widgets.filter(({ name }) => OF_PRESET.includes(name))) {
    const { callback } = widget;
    widget.callback = function () {
      callback?.apply(this, arguments);
      tell();
    };
  }
  const { onExecuted } = node;
  node.onExecuted = function () {
    onExecuted?.apply(this, arguments);
    tell(); // its file may have changed
  };
  node.showsAgain = tell;
}

const presetOf = (node) => {
  const source = node.getInputNode(node.inputs.findIndex(({ name }) => name === INPUT));
  return source?.comfyClass === PRESET ? source : null;
};

/** The settings that a preset gives; null where there is none, or nobody can tell before it has run. */
async function settingsOf(preset) {
  if (!preset) return null;
  if (preset.inputs.some(({ link, widget }) => widget && link != null)) return lastSettings(preset);
  const widgets = preset.widgets.filter(({ name }) => OF_PRESET.includes(name));
  const body = JSON.stringify(Object.fromEntries(widgets.map(({ name, value }) => [name, String(value ?? "")])));
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body };
  try {
    const response = await api.fetchApi("/sidestep/preset", post);
    return response.ok ? (await response.json()).settings : null; // what is wrong with it the node says when it runs
  } catch {
    return null; // ComfyUI does not answer
  }
}

/** What it gave when it ran last, with texts from other nodes. */
const lastSettings = ({ widgets }) => widgets.find(({ panel }) => panel)?.panel.state?.output?.settings ?? null;

function text({ value, options }) {
  return typeof value === "number" ? value.toFixed(options.precision ?? 3) : String(value);
}
