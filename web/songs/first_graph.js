// The smallest graph that trains on songs and generates with the result, in a workflow tab of its own.

import { app } from "../../../scripts/app.js";
import { t } from "../words.js";

const GAP = { x: 60, y: 24 };
const TITLE = 30; // a node's title bar lies above its position
const FRAME = { side: 24, top: 54, bottom: 24, between: 40 };
const FILLED = 0.86; // of the window
const EMPTY = { version: 0.4, last_node_id: 0, last_link_id: 0, nodes: [], links: [], groups: [], config: {}, extra: {} };
const SPLIT = "UNETLoader";
const WHOLE = "CheckpointLoaderSimple";
const OFFICIAL = "SideStepLoadACEStepCheckpoint";
const SONGS = "SideStepPreprocessAudioFolder";
const LORA = "SideStepConfigureLoRA";
const SETTINGS = "SideStepTrainingSettings";
const TRAIN = "SideStepTrainAdapter";
const APPLY = "SideStepApplyAdapter";
const TEXT = "TextEncodeAceStepAudio1.5";
const LATENT = "EmptyAceStep1.5LatentAudio";
const SHIFT = "ModelSamplingAuraFlow";
const DECODE = "VAEDecodeAudio";
const [SAVE, OLD_SAVE] = ["SaveAudioAdvanced", "SaveAudio"]; // ComfyUI 0.30 calls the latter deprecated
const GROUPS = [
  { title: () => t("1. Train on your songs"), color: "#3f789e", columns: [
    { width: 320, types: [SPLIT, WHOLE, OFFICIAL, LORA, SETTINGS] },
    { width: 420, types: [SONGS, TRAIN] },
  ] },
  { title: () => t("2. Generate with what was learned"), color: "#88aa88", columns: [
    { width: 380, types: [APPLY, SHIFT, "DualCLIPLoader", "StringConcatenate", TEXT, "ConditioningZeroOut"] },
    { width: 320, types: [LATENT, "KSampler", "VAELoader", DECODE, SAVE, OLD_SAVE] },
  ] },
];
const FOLDED = new Set([SHIFT, "DualCLIPLoader", "VAELoader", "ConditioningZeroOut", DECODE]); // nothing to set there
const LINKS = [ // [node, output, node, input]; links of nodes that are not there are left out
  [SPLIT, "MODEL", SONGS, "checkpoint"], [WHOLE, "MODEL", SONGS, "checkpoint"], [OFFICIAL, "checkpoint", SONGS, "checkpoint"],
  [SPLIT, "MODEL", TRAIN, "checkpoint"], [WHOLE, "MODEL", TRAIN, "checkpoint"], [OFFICIAL, "checkpoint", TRAIN, "checkpoint"],
  [SONGS, "dataset", TRAIN, "dataset"], [LORA, "adapter_config", TRAIN, "adapter_config"], [SETTINGS, "settings", TRAIN, "settings"],
  [SPLIT, "MODEL", APPLY, "model"], [WHOLE, "MODEL", APPLY, "model"], [TRAIN, "adapter", APPLY, "adapter"],
  [APPLY, "model", SHIFT, "model"], [SHIFT, "MODEL", "KSampler", "model"],
  [TRAIN, "trigger_word", "StringConcatenate", "string_a"], ["StringConcatenate", "STRING", TEXT, "tags"],
  ["DualCLIPLoader", "CLIP", TEXT, "clip"], [WHOLE, "CLIP", TEXT, "clip"],
  [TEXT, "CONDITIONING", "KSampler", "positive"], [TEXT, "CONDITIONING", "ConditioningZeroOut", "conditioning"],
  ["ConditioningZeroOut", "CONDITIONING", "KSampler", "negative"], [LATENT, "LATENT", "KSampler", "latent_image"],
  ["KSampler", "LATENT", DECODE, "samples"], ["VAELoader", "VAE", DECODE, "vae"],
  [WHOLE, "VAE", DECODE, "vae"], [DECODE, "AUDIO", SAVE, "audio"], [DECODE, "AUDIO", OLD_SAVE, "audio"],
];
const WITHOUT_VALUES = ["ConditioningZeroOut", DECODE, APPLY]; // they belong to what generates

/** Open the graph of a proposed training (see `proposeTraining`) as a new workflow, and show all of it. */
export async function openFirstGraph({ name, widgets: given }) {
  const known = window.LiteGraph.registered_node_types;
  const widgets = { ...given };
  const save = known[SAVE] ? SAVE : OLD_SAVE;
  if (given.save) widgets[save] = given.save;
  delete widgets.save;
  const types = [...Object.keys(widgets), ...(widgets.KSampler ? WITHOUT_VALUES : [])];
  const missing = types.filter((type) => !known[type]);
  if (missing.length) {
    throw new Error(t("This ComfyUI has no node {names}. Update ComfyUI.", { names: missing.join(", ") }));
  }
  await app.loadGraphData(structuredClone(EMPTY), true, true, name); // a tab of its own: the open workflow stays
  const nodes = new Map(types.map((type) => [type, add(type, widgets[type] ?? {})]));
  for (const [from, output, to, input] of LINKS) {
    if (nodes.has(from) && nodes.has(to)) connect(nodes.get(from), output, nodes.get(to), input);
  }
  const groups = GROUPS.map(({ title, color }) => addGroup(title(), color));
  arrange(nodes, groups);
  await drawn(); // Nodes 2.0 knows a node's height only then
  arrange(nodes, groups);
  show(groups.filter(({ graph }) => graph));
  const { changeTracker } = app.extensionManager.workflow.activeWorkflow ?? {};
  (changeTracker?.captureCanvasState ?? changeTracker?.checkState)?.call(changeTracker); // older ComfyUIs have the latter
}

function add(type, values) {
  const node = window.LiteGraph.createNode(type);
  app.graph.add(node);
  for (const [name, value] of Object.entries(values)) {
    const widget = node.widgets?.find((each) => each.name === name);
    const choices = widget?.options?.values;
    if (!widget || (Array.isArray(choices) && !choices.includes(value))) continue; // such as a key that no list has
    widget.value = value;
    widget.callback?.(value);
  }
  return node;
}

function connect(from, output, to, input) {
  // ComfyUI's own nodes name an output by its type, or not at all.
  const slot = Math.max(from.outputs.findIndex(({ name, type }) => name === output || type === output), 0);
  const entry = to.inputs.findIndex(({ name }) => name === input);
  if (!from.connect(slot, to, entry)) {
    throw new Error(t("{node} has no input {input} for {source}.", { node: to.title, input, source: from.title }));
  }
}

function addGroup(title, color) {
  const group = new window.LiteGraph.LGraphGroup(title);
  group.color = color;
  app.graph.add(group);
  return group;
}

/** Lay the nodes out in columns, and a frame around each group. */
function arrange(nodes, groups) {
  let left = 0;
  groups.forEach((group, index) => {
    let x = left + FRAME.side;
    let bottom = 0;
    for (const { width, types } of GROUPS[index].columns) {
      const column = types.filter((type) => nodes.has(type)).map((type) => nodes.get(type));
      if (!column.length) continue;
      let y = FRAME.top + TITLE;
      for (const node of column) {
        node.pos = [x, y];
        node.flags.collapsed = FOLDED.has(node.type);
        node.setSize([width, Math.max(node.computeSize()[1], node.size[1])]);
        y += (node.flags.collapsed ? 0 : node.size[1]) + TITLE + GAP.y;
      }
      bottom = Math.max(bottom, y - TITLE - GAP.y);
      x += width + GAP.x;
    }
    group.pos = [left, 0];
    group.size = [x - GAP.x + FRAME.side - left, bottom + FRAME.bottom];
    if (bottom) left += group.size[0] + FRAME.between;
    else app.graph.remove(group);
  });
  app.canvas.setDirty(true, true);
}

/** Fit the window to the groups. */
function show(groups) {
  const right = Math.max(...groups.map(({ pos, size }) => pos[0] + size[0]));
  const bottom = Math.max(...groups.map(({ pos, size }) => pos[1] + size[1]));
  app.canvas.ds.fitToBounds([0, 0, right, bottom], { zoom: FILLED });
  app.canvas.setDirty(true, true);
}

const drawn = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve, 100)));
