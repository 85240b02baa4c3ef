// Dims the widgets of a training that do not count because of connected settings, and shows in them what a preset sets.
// The person's own values stay in the workflow and in what is sent to run, and return when the preset is disconnected.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const INPUT = "settings";
const PRESET = "SideStepLoadPreset";
const OTHER_SETTINGS = "SideStepTrainingSettings";
const OWN = ["max_steps", "learning_rate", "chunk_duration", "seed", "preview_every"]; // set by a preset too
const WATCHED = { [PRESET]: ["preset", "changes", "json"], [OTHER_SETTINGS]: ["epochs"] };
const BY_STEPS = ["use max_steps", "0", ""]; // values of `epochs` with which max_steps counts

/** Let the widgets of Train LoRA (ACE-Step) follow the settings that are connected. */
export function followSettings(node) {
  const own = new Map(); // widget -> the person's value
  let request = 0;

  async function update() {
    const asked = ++request;
    dim();
    const source = sourceOf(node);
    const settings = await settingsOf(source?.comfyClass === PRESET ? source : null);
    if (asked !== request) return; // a later change is on its way
    for (const widget of node.widgets) {
      if (settings && widget.name in settings) show(widget, settings[widget.name]);
      else if (own.has(widget)) giveBack(widget);
    }
    app.canvas.setDirty(true, true);
  }

  function dim() {
    const source = sourceOf(node);
    const others = source?.comfyClass === OTHER_SETTINGS;
    const all = node.inputs.some(({ name, link }) => name === INPUT && link != null) && !others;
    const byEpochs = others && !BY_STEPS.includes(valueOf(source, "epochs").trim().toLowerCase());
    for (const widget of node.widgets.filter(({ name }) => OWN.includes(name))) {
      widget.disabled = all || (byEpochs && widget.name === "max_steps");
    }
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
    own.clear(); // the widgets hold the saved values, which are the person's
    void update();
  };
  node.onConnectionsChange = function () {
    onConnectionsChange?.apply(this, arguments);
    void update();
  };
  node.settingsChanged = update;
  dim();
}

/** Have the connected trainings follow a change of these settings. */
export function watchSettings(node) {
  const notify = () => {
    for (const output of node.outputs) {
      for (const link of output.links ?? []) node.graph?.getNodeById(node.graph.links.get(link)?.target_id)?.settingsChanged?.();
    }
  };
  for (const widget of node.widgets.filter(({ name }) => WATCHED[node.comfyClass].includes(name))) {
    const { callback } = widget;
    widget.callback = function () {
      callback?.apply(this, arguments);
      notify();
    };
  }
  const { onConfigure, onExecuted } = node;
  node.onConfigure = function () {
    onConfigure?.apply(this, arguments);
    notify(); // a training that was restored before this node has seen its defaults
  };
  node.onExecuted = function () {
    onExecuted?.apply(this, arguments);
    notify(); // its file may have changed
  };
  node.showsAgain = notify;
}

/** The connected settings node; none while ComfyUI clones the node, which is in no graph then. */
const sourceOf = (node) => (node.graph ? node.getInputNode(node.inputs.findIndex(({ name }) => name === INPUT)) : null);
const valueOf = ({ widgets }, name) => String(widgets.find((widget) => widget.name === name)?.value ?? "");

/** Settings that a preset gives; null without one, or when they are unknown before it has run. */
async function settingsOf(preset) {
  if (!preset) return null;
  if (preset.inputs.some(({ link, widget }) => widget && link != null)) return lastSettings(preset);
  const widgets = preset.widgets.filter(({ name }) => WATCHED[PRESET].includes(name));
  const body = JSON.stringify(Object.fromEntries(widgets.map(({ name, value }) => [name, String(value ?? "")])));
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body };
  try {
    const response = await api.fetchApi("/sidestep/preset", post);
    return response.ok ? (await response.json()).settings : null; // the node shows what is wrong when it runs
  } catch {
    return null; // ComfyUI does not answer
  }
}

/** Settings of its latest run, with texts from other nodes. */
const lastSettings = ({ widgets }) => widgets.find(({ panel }) => panel)?.panel.state?.output?.settings ?? null;

function text({ value, options }) {
  return typeof value === "number" ? value.toFixed(options.precision ?? 3) : String(value);
}
