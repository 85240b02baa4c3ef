// The fields of one song, below its row.  They are written beside the song when a person presses Save, and only then.

import { make } from "./elements.js";
import { FIELDS } from "./song_rows.js";

/**
 * {element, changed()}; `changed` gives the values that are not the row's, and `draft` is what it gave before the table
 * was drawn anew.  `save(changed values)` gives a promise of nothing, or of what is wrong in words; `close()` ends it.
 */
export function createEditor(row, { draft, save, close }) {
  const fields = new Map(FIELDS.map((field) => [field.name, input(field, row[field.name])]));
  const note = make("span", "sidestep-edit-note");
  const before = new Map([...fields].map(([name, { value }]) => [name, value])); // as the fields hold it: \n for \r\n
  const saving = button("Save", "sidestep-save");
  const cancel = button("Cancel", "");
  const labels = FIELDS.map(({ name, label, lines }) =>
    make("label", lines ? "sidestep-field sidestep-wide" : "sidestep-field", make("span", "", label), fields.get(name)));
  const element = make("form", "sidestep-editor", ...labels, make("div", "sidestep-edit-foot", saving, cancel, note));
  saving.title = "Writes what is not there yet into a text file beside the song. The file as it was is kept as .bak.";
  if (row.section) {
    saving.disabled = true;
    note.textContent = "A section: edit the whole song in the table of Build Dataset.";
  }

  for (const [name, value] of Object.entries(draft)) fields.get(name).value = value;
  /** Only these are saved: what was changed meanwhile in another table or tab stays. */
  const changed = () => Object.fromEntries(
    [...fields].map(([name, { value }]) => [name, value]).filter(([name, value]) => value !== before.get(name)));

  async function submit() {
    saving.disabled = true;
    note.textContent = "";
    const wrong = await save(changed());
    saving.disabled = false;
    if (wrong) note.textContent = wrong;
  }

  element.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  cancel.type = "button";
  cancel.addEventListener("click", close);
  // ComfyUI's shortcuts are not meant while writing.
  for (const type of ["keydown", "keyup", "paste", "copy", "cut"]) {
    element.addEventListener(type, (event) => event.stopPropagation());
  }
  return { element, changed };
}

function input({ name, lines }, value) {
  const element = make(lines ? "textarea" : "input", "");
  if (lines) element.rows = lines;
  element.name = name;
  element.value = value;
  element.autocomplete = "off";
  return element;
}

function button(text, className) {
  const element = make("button", className, text);
  element.type = "submit";
  return element;
}
