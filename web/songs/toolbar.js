// Filters of a song table, and changes of many songs at once.

import { button, make } from "../dom.js";
import { number, plural, t } from "../words.js";

const WAIT = 250; // milliseconds after a key
const filters = () => [["all", t("All")], ["no_caption", t("No caption")], ["problems", t("Problems")]];
const actions = () => [["replace", t("Find and replace")], ["genre", t("Set the genre")],
  ["trigger_word", t("Set the trigger word")]];
const labels = () => ({ replace: t("New text"), genre: t("Genre"), trigger_word: t("Trigger word") });

/**
 * {element, update(page), reset(), filter()}; `filtered()` is called when another filter is chosen, `bulk(edit)` asks the server for
 * {answer, wrong}, where edit.preview tells a question from an order, and `changed(sentence)` is called after a change.
 */
export function createToolbar({ filtered, bulk, changed }) {
  const search = field("search", t("Find a song"), t("Find songs by name, caption or genre"));
  const buttons = filters().map(([only, text]) => ({ only, text, element: button(text, "sidestep-filter") }));
  const group = make("div", "sidestep-filters", ...buttons.map(({ element }) => element));
  const action = make("select", "");
  const find = field("text", t("Find"), t("Text to find in captions and lyrics; upper and lower case count"));
  const text = field("text", labels().replace, t("Empty removes it"));
  const apply = button(t("Change"), "sidestep-button sidestep-save",
    t("Writes text files next to the songs. Previous files are kept as .bak."));
  const note = make("span", "sidestep-edit-note");
  const many = make("details", "sidestep-bulk", make("summary", "", t("Change many songs")),
    make("div", "sidestep-bulk-fields", action, find, text), make("div", "sidestep-head", note, apply));
  const element = make("div", "sidestep-toolbar", search, group, many);
  let only = "all";
  let timer = 0;
  let request = 0;

  group.setAttribute("role", "group");
  group.setAttribute("aria-label", t("Songs to show"));
  action.setAttribute("aria-label", t("What to change"));
  action.append(...actions().map(([value, label]) => new Option(label, value)));
  note.setAttribute("role", "status");
  apply.disabled = true;
  search.addEventListener("input", () => later(refilter));
  for (const each of buttons) {
    each.element.addEventListener("click", () => {
      only = each.only;
      refilter();
    });
  }
  action.addEventListener("change", () => {
    find.hidden = action.value !== "replace";
    text.placeholder = labels()[action.value];
    text.setAttribute("aria-label", text.placeholder);
    void ask();
  });
  for (const input of [find, text]) input.addEventListener("input", () => later(ask));
  many.addEventListener("toggle", () => void ask());
  apply.addEventListener("click", () => void order());
  for (const type of ["keydown", "keyup", "paste", "copy", "cut"]) {
    element.addEventListener(type, (event) => event.stopPropagation()); // keys must not trigger ComfyUI's shortcuts
  }

  function later(call) {
    clearTimeout(timer);
    timer = setTimeout(call, WAIT);
  }

  function refilter() {
    filtered();
    void ask();
  }

  const edit = (preview) => ({ action: action.value, find: find.value, text: text.value, preview, only, filter: search.value });

  /** Show how many songs would change. */
  async function ask() {
    const mine = ++request;
    apply.disabled = true;
    apply.textContent = t("Change");
    note.textContent = "";
    if (!many.open || (action.value === "replace" && !find.value)) return;
    const { answer, wrong } = await bulk(edit(true));
    if (mine !== request) return; // a newer one is on its way
    if (wrong) note.textContent = wrong;
    else {
      const more = answer.songs > answer.examples.length ? " ..." : "";
      note.textContent = answer.songs ? `${answer.examples.join(", ")}${more}` : t("No song would change.");
      note.title = note.textContent;
      apply.textContent = answer.songs ? plural(answer.songs, "Change {n} song", "Change {n} songs") : t("Change");
      apply.disabled = !answer.songs;
    }
  }

  async function order() {
    apply.disabled = true;
    const { answer, wrong } = await bulk(edit(false));
    await ask();
    const sentence = answer && plural(answer.songs, "{n} song changed. Previous files are kept as .bak.",
      "{n} songs changed. Previous files are kept as .bak.");
    changed(wrong || [sentence, ...answer.problems].join(" "));
  }

  function update({ counts }) {
    for (const each of buttons) {
      each.element.textContent = each.only === "all" ? each.text : `${each.text} (${number(counts[each.only])})`;
      each.element.setAttribute("aria-pressed", String(each.only === only));
    }
  }

  /** Show all songs again, without asking for them. */
  function reset() {
    only = "all";
    search.value = "";
    void ask();
  }

  return { element, update, reset, filter: () => ({ only, text: search.value }) };
}

function field(type, label, title) {
  const input = make("input", "");
  Object.assign(input, { type, title, placeholder: label, autocomplete: "off" });
  input.setAttribute("aria-label", label);
  return input;
}
