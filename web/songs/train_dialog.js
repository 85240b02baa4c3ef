// Dialog "Train on my songs": songs, model and name in; a proposal in words; the whole graph onto the canvas.

import { app } from "../../../scripts/app.js";
import { button, make } from "../dom.js";
import { inMinutes, stepsOf } from "../progress/progress.js";
import { plural, t, worded } from "../words.js";
import { createDropZone } from "./drop_zone.js";
import { openFirstGraph } from "./first_graph.js";
import { songsOf } from "./rows.js";
import { listFolders, listModels, proposeTraining } from "./server.js";

const presets = () => [["", t("Proposed for your songs and card")], ["quick_test", t("Quick test: does it run?")],
  ["high_quality", t("Thorough: much time")]];
const WAIT = 300; // milliseconds after a key

let open = null; // the dialog, while it is open

/** Open the dialog, for the songs of a folder of the input folder if one is given. */
export function openTrainDialog(folder = "") {
  if (open) return;
  open = createDialog(folder, () => { open = null; });
}

function createDialog(folder, closed) {
  const title = make("h2", "sidestep-title", t("Train on my songs"));
  const zone = createDropZone(async (name) => {
    await lookForFolders();
    choose(name);
  });
  const folders = select("folder");
  const models = select("model");
  const again = button(t("Look again"), "sidestep-button", t("Look for folders and models again"));
  const name = field("name", t("Name of the adapter's file"));
  const word = field("trigger_word", t("Word that calls the style in a prompt"));
  const settings = select("preset", presets());
  const summary = make("div", "sidestep-summary");
  const note = make("span", "sidestep-edit-note");
  const cancel = button(t("Cancel"), "sidestep-button");
  const create = button(t("Put it on the canvas"), "sidestep-button sidestep-save",
    t("Opens a workflow of its own with everything connected. Nothing runs before you press Run."));
  const form = make("form", "sidestep-train", title, zone.element,
    labelled(t("Songs"), folders), labelled(t("Model"), models, again), labelled(t("Name"), name),
    labelled(t("Trigger word"), word), labelled(t("Settings"), settings), summary,
    make("div", "sidestep-edit-foot", note, cancel, create));
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
    const listed = answer.input.map((each) => [each.name, `${each.name} (${songsOf(each.songs)})`]);
    const choice = listed.length ? t("Choose songs that are in ComfyUI already") : t("No songs in ComfyUI yet");
    fill(folders, [["", choice], ...listed]);
    folders.value = listed.some(([value]) => value === before) ? before : "";
    if (folders.value && !named) choose(folders.value);
  }

  async function lookForModels() {
    const { answer, wrong } = await listModels();
    if (wrong) return say(wrong);
    const before = models.value;
    fill(models, answer.models.map((each) => [each, each]));
    if (answer.models.includes(before)) models.value = before;
    say(answer.models.length ? "" : t("No ACE-Step 1.5 model was found. Put acestep_v1.5_turbo.safetensors into "
      + "models/diffusion_models, then press Look again."));
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
    summary.replaceChildren(t("Reading the songs ..."));
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
    app.extensionManager.toast.add({ severity: "info", summary: t("Ready to train"), life: 8000,
      detail: t("Press Run: {songs}, {steps}.", { songs: songsOf(proposal.songs), steps: stepsOf(proposal.steps) }) });
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
  const length = minutes < 1 ? plural(Math.round(minutes * 60), "{n} second", "{n} seconds")
    : inMinutes(Math.round(minutes));
  const facts = { songs: songsOf(songs), length, bare: songsOf(bare) };
  const music = !bare ? t("{songs}, {length} of music.", facts)
    : bare === songs ? t("{songs}, {length} of music, none has a caption.", facts)
      : t("{songs}, {length} of music, {bare} without a caption.", facts);
  const work = plural(passes, "{steps}: all of it is heard about {n} time.",
    "{steps}: all of it is heard about {n} times.", { steps: stepsOf(steps) });
  return [
    ["sidestep-plan", `${music} ${work}`],
    ["sidestep-faint", worded(reason)],
    ...warnings.map((warning) => ["sidestep-warned", worded(warning)]),
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
