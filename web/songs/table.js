// Song table: rows, a player, waveforms of the visible rows, and a dialog to edit one; with filters if there is room.
// Names and texts come from files of strangers: they are only ever set as textContent or as values.

import { button, make } from "../dom.js";
import { plural, t } from "../words.js";
import { openEditor } from "./editor.js";
import { createPlayer } from "./player.js";
import { PAGE, leftOut, range } from "./rows.js";
import { createSongRow } from "./song_row.js";
import { createToolbar } from "./toolbar.js";

const SURE = 5000; // milliseconds to press again

/**
 * {element, show(key), empty(), stop()}; `hint` is the text before the first run; `height` in pixels holds for an empty table, too,
 * so that a node does not grow over its neighbours; `server` has rows(key, first, count, filter), peaks, audio, save, saveAll,
 * bulk; `filters` adds filters, changes of many songs, and captions that are written in the row.
 */
export function createSongTable({ hint, height, server, filters = false }) {
  const title = make("span", "sidestep-title");
  const note = make("span", "sidestep-note");
  const back = button(t("Previous"), "sidestep-button", t("Rows before these"));
  const forth = button(t("Next"), "sidestep-button", t("Rows after these"));
  const all = button(t("Save all to files"), "sidestep-button",
    t("Writes new values, such as analyzed tempos and new captions, into text files next to the songs. Previous files "
    + "are kept as .bak."));
  const head = make("div", "sidestep-head", title, note, back, forth, all);
  const list = make("div", "sidestep-list");
  const left = make("details", "sidestep-left-out");
  const player = createPlayer({
    address: (index, asFlac) => server.audio(key, index, asFlac),
    changed: () => shown.forEach((row) => row.mark()),
    failed: (text) => showMessage(text),
  });
  const toolbar = filters ? createToolbar({
    filtered: () => load(0),
    bulk: (edit) => server.bulk(key, edit),
    changed: async (text) => {
      await load(first);
      showMessage(text);
    },
  }) : null;
  const element = make("div", "sidestep-panel sidestep-songs", ...(toolbar ? [toolbar.element] : []), head, list, left,
    player.element);
  const inSight = new IntersectionObserver(drawWaves, { root: list, rootMargin: "60px" });
  let key = null;
  let editing = null; // {key, row, editor} of the song in the dialog
  let first = 0; // first row of the latest request
  let page = null; // the latest answer
  let shown = [];
  let request = 0;
  let sure = 0;

  element.style.minHeight = `${height}px`;
  list.setAttribute("role", "table");
  list.setAttribute("aria-label", t("Songs"));
  list.addEventListener("keydown", moveInColumn);
  back.addEventListener("click", () => load(first - PAGE));
  forth.addEventListener("click", () => load(first + PAGE));
  all.addEventListener("click", saveAll);
  clear(hint);

  function clear(text) {
    page = null;
    shown = [];
    list.replaceChildren();
    title.textContent = "";
    showMessage(text);
    for (const part of [list, left, back, forth, all, ...(toolbar ? [toolbar.element] : [])]) part.hidden = true;
  }

  function showMessage(text) {
    note.textContent = note.title = text;
  }

  /** Show the songs of this key, from the first row on; those of another folder without the present filter. */
  function show(newKey, { otherFolder = false } = {}) {
    key = newKey;
    if (otherFolder) toolbar?.reset();
    player.stop();
    return load(editing ? first : 0);
  }

  async function load(row) {
    const mine = ++request;
    first = Math.max(0, page ? Math.min(row, page.total - 1) : row);
    const { answer, wrong } = await server.rows(key, first, PAGE, toolbar?.filter());
    if (mine !== request) return; // a newer one is on its way
    if (wrong) return clear(wrong);
    page = answer;
    showMessage("");
    draw();
  }

  function draw() {
    title.textContent = range(page);
    list.hidden = false;
    all.hidden = Boolean(toolbar); // songs of a folder have nothing that is not in their files
    if (toolbar) {
      toolbar.element.hidden = false;
      toolbar.update(page);
    }
    back.hidden = forth.hidden = page.total <= PAGE;
    back.disabled = page.first === 0;
    forth.disabled = page.first + page.rows.length >= page.total;
    inSight.disconnect();
    shown = page.rows.map(songRow);
    list.replaceChildren(...shown.map((row) => row.element));
    list.scrollTop = 0;
    followEdited();
    for (const row of shown) inSight.observe(row.element);
    drawLeftOut();
  }

  function drawLeftOut() {
    const { left_out: files, left_out_total: total } = page;
    left.hidden = !total;
    const lines = files.map(({ name, reason }) => make("div", "", make("b", "", name), ` ${reason}`));
    if (total > files.length) lines.push(make("div", "", t("and {n} more, in the log", { n: total - files.length })));
    left.replaceChildren(make("summary", "", leftOut(total)),
      make("div", "sidestep-reasons", ...lines));
  }

  async function drawWaves(entries) {
    for (const { target, isIntersecting } of entries) {
      const row = shown.find((each) => each.element === target);
      if (isIntersecting && row && !row.asked) {
        row.asked = true;
        const { answer } = await server.peaks(key, row.index); // the row itself shows what is wrong with its song
        if (answer) row.draw(answer.peaks);
      }
    }
  }

  const songRow = (row) => createSongRow(row, { player, edit: editRow, saveCaption: toolbar && saveCaption });

  /** Save the caption of a row; return an error in words, or nothing. */
  async function saveCaption(row, caption) {
    return store({ key, row }, { caption });
  }

  /** Arrow keys go to the same button of the next row. */
  function moveInColumn(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const control = event.target.closest("button");
    if (!step || !control) return;
    event.preventDefault();
    event.stopPropagation();
    const at = shown.findIndex(({ element: row }) => row.contains(control));
    shown[at + step]?.element.querySelector(`.${control.classList[0]}`)?.focus();
  }

  function editRow(row) {
    editing = { key, row };
    editing.editor = openEditor(row, { save, drawer: Boolean(toolbar), closed: () => { editing = null; } });
  }

  /** After the songs are read again, attach the dialog to its song, if it is still there. */
  function followEdited() {
    const row = editing && page.rows.find(({ name }) => name === editing.row.name);
    if (!row) return;
    editing.key = key;
    editing.row = row;
    editing.editor.update(row);
  }

  const save = (values) => store(editing, values);

  async function store({ key: from, row }, values) {
    const { answer, wrong } = await server.save(from, row.index, values);
    if (wrong) return wrong;
    const place = from === key ? page.rows.findIndex(({ index }) => index === row.index) : -1;
    if (place < 0) return "";
    page.rows[place] = answer;
    const fresh = songRow(answer);
    shown[place].element.replaceWith(fresh.element);
    shown[place] = fresh;
    inSight.observe(fresh.element);
    showMessage(toolbar ? t("{name} is saved.", { name: answer.name })
      : t("{name} is saved. Run the workflow again to use it.", { name: answer.name }));
    return "";
  }

  async function saveAll() {
    if (!sure) {
      all.textContent = t("Press again to save");
      sure = setTimeout(unsure, SURE);
      return;
    }
    unsure();
    all.disabled = true;
    const { answer, wrong } = await server.saveAll(key);
    all.disabled = false;
    const saved = answer && plural(answer.songs, "{n} song saved.", "{n} songs saved.");
    showMessage(wrong || [saved, ...answer.problems].join(" "));
  }

  function unsure() {
    clearTimeout(sure);
    sure = 0;
    all.textContent = t("Save all to files");
  }

  /** Show no songs. */
  function empty() {
    request += 1; // an answer that is on its way comes too late
    player.stop();
    clear(hint);
  }

  return { element, show, empty, stop: player.stop, pause: player.pause };
}
