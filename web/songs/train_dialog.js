// Dialog "Train on my songs": songs, model and name in; a proposal in words; the whole graph onto the canvas.

import { app } from "../../../scripts/app.js";
import { button, make } from "../dom.js";
import { createDropZone } from "./drop_zone.js";
import { openFirstGraph } from "./first_graph.js";
import { count } from "./rows.js";
import { listFolders, listModels, proposeTraining } from "./server.js";

const NO_MODEL = "No ACE-Step 1.5 model was found. Put acestep_v1.5_turbo.safetensors into models/diffusion_models, then "
  + "press Look again.";
const SETTINGS = [["", "Proposed for your songs and card"], ["quick_test", "Quick test: does it run?"],
  ["high_quality", "Thorough: much time"]];
const WAIT = 300; // milliseconds after a key

let open = null; // the dialog, while it is open

/** Open the dialog, for the songs of a folder of the input folder if one is given. */
export function openTrainDialog(folder = "") {
  if (open) return;
  open = createDialog(folder, () => { open = null; });
}

function createDialog(folder, closed) {
  const title = make("h2", "sidestep-title", "Train on my songs");
  const zone = createDropZone(async (name) => {
    await lookForFolders();
    choose(name);
  });
  const folders = select("folder");
  const models = select("model");
  const again = button("Look again", "sidestep-button", "Look for folders and models again");
  const name = field("name", "Name of the adapter's file");
  const word = field("trigger_word", "Word that calls the style in a prompt");
  const settings = select("preset", SETTINGS);
  const summary = make("div", "sidestep-summary");
  const note = make("span", "sidestep-edit-note");
  const cancel = button("Cancel", "sidestep-button");
  const create = button("Put it on the canvas", "sidestep-button sidestep-save",
    "Opens a workflow of its own with everything connected. Nothing runs before you press Run.");
  const form = make("form", "sidestep-train", title, zone.element,
    labelled("Songs", folders), labelled("Model", models, again), labelled("Name", name), labelled("Trigger word", word),
    labelled("Settings", settings), summary, make("div", "sidestep-edit-foot", note, cancel, create));
  const dialog = make("dialog", "sidestep-panel sidestep-dialog sidestep-train-dialog", form);
  let named = ""; // the name as the folder gave it
  let proposal = null;
  let request = 0;
  let timer = 0;

  title.id = "sidestep-train-title";
  dialog.setAttribute("aria-labelledby", title.id);
  for (const text of [note, summary]) text.setAttribute("role", "status");
  folders.addEventListener("change", () => choose(folders.value));
  for (const input of [models, settings]) input.addEventListener("change", () => void propose());
  name.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(propose, WAIT);
  });
  word.addEventListener("input", () => { word.dataset.own = "true"; });
  again.addEventListener("click", () => void look());
  cancel.addEventListener("click", close);
  create.type = "submit";
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void submit();
  });
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    close();
  });
  for (const type of ["keydown", "keyup", "paste", "copy", "cut", "wheel", "pointerdown"]) {
    dialog.addEventListener(type, (event) => event.stopPropagation()); // keys must not trigger ComfyUI's shortcuts
  }

  async function look() {
    await Promise.all([lookForFolders(), lookForModels()]);
    await propose();
  }

  async function lookForFolders() {
    const { answer, wrong } = await listFolders();
    if (wrong) return say(wrong);
    const before = folders.value || folder;
    const listed = answer.input.map((each) => [each.name, `${each.name} (${count(each.songs, "song")})`]);
    fill(folders, [["", listed.length ? "Choose songs that are in ComfyUI already" : "No songs in ComfyUI yet"], ...listed]);
    folders.value = listed.some(([value]) => value === before) ? before : "";
    if (folders.value && !named) choose(folders.value);
  }

  async function lookForModels() {
    const { answer, wrong } = await listModels();
    if (wrong) return say(wrong);
    const before = models.value;
    fill(models, answer.models.map((each) => [each, each]));
    if (answer.models.includes(before)) models.value = before;
    say(answer.models.length ? "" : NO_MODEL);
  }

  /** Take a folder; an untouched name follows it. */
  function choose(value) {
    folders.value = value;
    if (!name.value || name.value === named) named = name.value = value;
    delete word.dataset.own;
    void propose();
  }

  async function propose() {
    clearTimeout(timer);
    const mine = ++request;
    create.disabled = true;
    proposal = null;
    if (!folders.value || !models.value) return summary.replaceChildren();
    summary.replaceChildren("Reading the songs ...");
    const { answer, wrong } = await proposeTraining({
      folder: folders.value, model: models.value, name: name.value, preset: settings.value });
    if (mine !== request) return; // a newer one is on its way
    if (wrong) return summary.replaceChildren(make("p", "sidestep-warned", wrong));
    proposal = answer;
    if (!word.dataset.own) word.value = answer.trigger_word;
    summary.replaceChildren(...sentences(answer).map(([className, text]) => make("p", className, text)));
    create.disabled = false;
  }

  async function submit() {
    if (!proposal) return;
    create.disabled = true;
    try {
      const { SideStepPreprocessAudioFolder: songs } = proposal.widgets;
      const widgets = { ...proposal.widgets, SideStepPreprocessAudioFolder: { ...songs, trigger_word: word.value.trim() } };
      await openFirstGraph({ ...proposal, widgets });
    } catch (error) {
      create.disabled = false;
      return say(error.message);
    }
    close();
    app.extensionManager.toast.add({ severity: "info", summary: "Ready to train", life: 8000,
      detail: `Press Run: ${count(proposal.songs, "song")}, ${count(proposal.steps, "step")}.` });
  }

  function say(text) {
    note.textContent = text;
  }

  function close() {
    clearTimeout(timer);
    zone.cancel();
    dialog.remove();
    closed();
  }

  create.disabled = true;
  document.body.append(dialog);
  dialog.showModal();
  void look();
  return dialog;
}

/** [class, sentence]: what will be done, why, and what may go wrong. */
function sentences({ songs, minutes, without_caption: bare, steps, passes, reason, warnings }) {
  const length = minutes < 1 ? `${Math.round(minutes * 60)} seconds` : `${Math.round(minutes)} min`;
  const captions = bare ? `, ${bare === songs ? "none has a caption" : `${count(bare, "song")} without a caption`}` : "";
  return [
    ["sidestep-plan", `${count(songs, "song")}, ${length} of music${captions}. ${count(steps, "step")}: all of it is heard `
      + `about ${count(passes, "time")}.`],
    ["sidestep-faint", reason],
    ...warnings.map((warning) => ["sidestep-warned", warning]),
  ];
}

function labelled(text, ...inputs) {
  const label = make("label", "", text);
  label.htmlFor = inputs[0].id;
  return make("div", "sidestep-row", label, ...inputs);
}

function field(name, title) {
  const input = make("input", "");
  Object.assign(input, { name, title, id: `sidestep-train-${name}`, autocomplete: "off", maxLength: 60, required: true });
  return input;
}

function select(name, options = []) {
  const element = make("select", "");
  Object.assign(element, { name, id: `sidestep-train-${name}` });
  fill(element, options);
  return element;
}

function fill(element, options) {
  element.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
}
