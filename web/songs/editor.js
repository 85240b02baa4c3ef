// The fields of one song, in a dialog over the page.  They are written beside the song when a person presses Save, and
// only then; what was written and not saved is never dropped by one key or click.

import { make } from "../dom.js";
import { FIELDS } from "./rows.js";

const SURE = 5000; // milliseconds to press Discard

/**
 * Opens the dialog: {update(row)}, for when the songs were read again meanwhile.  `save(changed values)` gives a promise
 * of nothing, or of what is wrong in words; `closed()` is told at the end.
 */
export function openEditor(row, { save, closed }) {
  const fields = new Map(FIELDS.map((field) => [field.name, input(field, row[field.name])]));
  const before = new Map(); // as the fields hold it: \n for \r\n
  const note = make("span", "sidestep-edit-note");
  const saving = button("Save", "sidestep-button sidestep-save", "submit");
  const cancel = button("Cancel", "sidestep-button", "button");
  const title = make("h2", "sidestep-title");
  const labels = FIELDS.map(({ name, label, lines }) =>
    make("label", `sidestep-field${lines ? ` sidestep-wide sidestep-${name}-field` : ""}`, make("span", "", label),
      fields.get(name)));
  const foot = make("div", "sidestep-edit-foot", note, cancel, saving);
  const form = make("form", "sidestep-editor", title, ...labels, foot);
  const dialog = make("dialog", "sidestep-panel sidestep-dialog", form);
  let sure = 0;

  saving.title = "Writes what is not there yet into a text file beside the song. The file as it was is kept as .bak. "
    + "(Ctrl+Enter)";
  title.id = "sidestep-editor-title";
  dialog.setAttribute("aria-labelledby", title.id);
  note.setAttribute("role", "status");

  /** Only these are saved: what was changed meanwhile in another table or tab stays. */
  const changed = () => Object.fromEntries(
    [...fields].map(([name, { value }]) => [name, value]).filter(([name, value]) => value !== before.get(name)));
  const dirty = () => Object.keys(changed()).length > 0;

  /** Show the values of this row, but for the fields that a person is writing. */
  function update(fresh) {
    const own = changed();
    title.textContent = fresh.name;
    saving.disabled = Boolean(fresh.section);
    if (fresh.section) note.textContent = "A section: edit the whole song in the table of Build Dataset.";
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
    if (cancel.disabled) return; // it is being written
    if (!dirty()) return close();
    unsure();
    note.textContent = "Not saved yet. Save it, or press Discard.";
    cancel.textContent = "Discard";
    sure = setTimeout(unsure, SURE);
  }

  function unsure() {
    clearTimeout(sure);
    if (sure) note.textContent = "";
    sure = 0;
    cancel.textContent = "Cancel";
  }

  function close() {
    unsure();
    window.removeEventListener("beforeunload", keep);
    dialog.remove();
    closed();
  }

  function keep(event) {
    if (dirty()) event.preventDefault(); // the browser asks before the page goes
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  form.addEventListener("input", unsure);
  cancel.addEventListener("click", () => (sure ? close() : leave())); // Escape alone never discards
  dialog.addEventListener("keydown", (event) => {
    event.stopPropagation(); // ComfyUI's shortcuts are not meant while writing
    if (event.key === "Escape") {
      event.preventDefault(); // or the browser closes it, at a second press whatever was said
      if (!event.repeat) leave();
    }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(saving);
  });
  for (const type of ["keyup", "paste", "copy", "cut", "wheel", "pointerdown"]) {
    dialog.addEventListener(type, (event) => event.stopPropagation());
  }
  dialog.addEventListener("cancel", (event) => { // a phone's way back
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
