// Dialog to edit the text fields of one song.  Only Save writes them, to the song's text files; unsaved edits are never
// lost by a single key or click.

import { make } from "../dom.js";
import { t } from "../words.js";
import { fieldsOfSong } from "./rows.js";

const SURE = 5000; // milliseconds to press Discard

/**
 * Open the dialog; return {update(row)} for songs that are read again.  `save(changed values)` returns a promise of an
 * error in words, or of nothing; `closed()` is called at the end.  A `drawer` has the full height of the window.
 */
export function openEditor(row, { save, closed, drawer = false }) {
  const texts = fieldsOfSong();
  const fields = new Map(texts.map((field) => [field.name, input(field, row[field.name])]));
  const before = new Map(); // values as the fields hold them: \n for \r\n
  const note = make("span", "sidestep-edit-note");
  const saving = button(t("Save"), "sidestep-button sidestep-save", "submit");
  const cancel = button(t("Cancel"), "sidestep-button", "button");
  const title = make("h2", "sidestep-title");
  const labels = texts.map(({ name, label, lines }) =>
    make("label", `sidestep-field${lines ? ` sidestep-wide sidestep-${name}-field` : ""}`, make("span", "", label),
      fields.get(name)));
  const foot = make("div", "sidestep-edit-foot", note, cancel, saving);
  const form = make("form", "sidestep-editor", title, ...labels, foot);
  const dialog = make("dialog", `sidestep-panel sidestep-dialog${drawer ? " sidestep-drawer" : ""}`, form);
  let sure = 0;

  saving.title = t("Writes your changes into a text file next to the song. The previous file is kept as .bak. (Ctrl+Enter)");
  title.id = "sidestep-editor-title";
  dialog.setAttribute("aria-labelledby", title.id);
  note.setAttribute("role", "status");

  /** Only edited fields are saved: changes made in another table or tab stay. */
  const changed = () => Object.fromEntries(
    [...fields].map(([name, { value }]) => [name, value]).filter(([name, value]) => value !== before.get(name)));
  const dirty = () => Object.keys(changed()).length > 0;

  /** Show the values of this row, except in edited fields. */
  function update(fresh) {
    const own = changed();
    title.textContent = fresh.name;
    saving.disabled = Boolean(fresh.section);
    if (fresh.section) note.textContent = t("A section: edit the whole song in the table of Build Dataset.");
    for (const [name, field] of fields) {
      const value = field.value;
      field.value = fresh[name];
      before.set(name, field.value);
      if (name in own) field.value = value;
    }
  }

  async function submit() {
    if (saving.disabled) return;
    saving.disabled = cancel.disabled = true;
    note.textContent = "";
    const wrong = await save(changed());
    saving.disabled = cancel.disabled = false;
    if (wrong) note.textContent = wrong;
    else close();
  }

  function leave() {
    if (cancel.disabled) return; // a save is running
    if (!dirty()) return close();
    unsure();
    note.textContent = t("Not saved yet. Save it, or press Discard.");
    cancel.textContent = t("Discard");
    sure = setTimeout(unsure, SURE);
  }

  function unsure() {
    clearTimeout(sure);
    if (sure) note.textContent = "";
    sure = 0;
    cancel.textContent = t("Cancel");
  }

  function close() {
    unsure();
    window.removeEventListener("beforeunload", keep);
    dialog.remove();
    closed();
  }

  function keep(event) {
    if (dirty()) event.preventDefault(); // the browser asks before it leaves the page
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  form.addEventListener("input", unsure);
  cancel.addEventListener("click", () => (sure ? close() : leave())); // Escape alone never discards
  dialog.addEventListener("keydown", (event) => {
    event.stopPropagation(); // keys must not trigger ComfyUI's shortcuts
    if (event.key === "Escape") {
      event.preventDefault(); // or the browser closes it, at a second press regardless
      if (!event.repeat) leave();
    }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(saving);
  });
  for (const type of ["keyup", "paste", "copy", "cut", "wheel", "pointerdown"]) {
    dialog.addEventListener(type, (event) => event.stopPropagation());
  }
  dialog.addEventListener("cancel", (event) => { // the back gesture of phones
    event.preventDefault();
    leave();
  });
  window.addEventListener("beforeunload", keep);

  for (const [name, field] of fields) before.set(name, field.value);
  update(row);
  document.body.append(dialog);
  dialog.showModal();
  fields.get("caption").focus();
  return { update };
}

function input({ name, lines }, value) {
  const element = make(lines ? "textarea" : "input", "");
  if (lines) element.rows = lines;
  element.name = name;
  element.value = value;
  element.autocomplete = "off";
  return element;
}

function button(text, className, type) {
  const element = make("button", className, text);
  element.type = type;
  return element;
}
