// Song table of a node: rows, a player, waveforms of the visible rows, and a dialog to edit one.
// Names and texts come from files of strangers: they are only ever set as textContent or as values.

import { make, makeSvg } from "../dom.js";
import { openEditor } from "./editor.js";
import { createPlayer } from "./player.js";
import { PAGE, captionText, cell, clock, count, problems, range, wave } from "./rows.js";

const PLAY = "M3 1.5v9l7.5 -4.5z";
const PAUSE = "M3 1.5v9M8.5 1.5v9";
const EDIT = "M2 10l.6 -2.6l5.6 -5.6l2 2l-5.6 5.6z";
const SAVE_ALL = "Save all to files";
const SURE = 5000; // milliseconds to press again

/**
 * {element, show(key), stop()}; `hint` is the text before the first run; `height` in pixels holds for an empty table, too,
 * so that a node does not grow over its neighbours; `server` has rows(key, first, count), peaks, audio, save, saveAll.
 */
export function createSongTable({ hint, height, server }) {
  const title = make("span", "sidestep-title");
  const note = make("span", "sidestep-note");
  const back = textButton("Previous", "Rows before these");
  const forth = textButton("Next", "Rows after these");
  const all = textButton(SAVE_ALL,
    "Writes new values, such as analyzed tempos and new captions, into text files next to the songs. Previous files "
    + "are kept as .bak.");
  const head = make("div", "sidestep-head", title, note, back, forth, all);
  const list = make("div", "sidestep-list");
  const left = make("details", "sidestep-left-out");
  const player = createPlayer({
    address: (index, asFlac) => server.audio(key, index, asFlac),
    changed: () => shown.forEach((row) => row.mark()),
    failed: (text) => showMessage(text),
  });
  const element = make("div", "sidestep-panel sidestep-songs", head, list, left, player.element);
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
  list.setAttribute("aria-label", "Songs");
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
    for (const part of [list, left, back, forth, all]) part.hidden = true;
  }

  function showMessage(text) {
    note.textContent = note.title = text;
  }

  /** Show the songs of this key, from the first row on. */
  function show(newKey) {
    key = newKey;
    player.stop();
    return load(editing ? first : 0);
  }

  async function load(row) {
    const mine = ++request;
    first = Math.max(0, page ? Math.min(row, page.total - 1) : row);
    const { answer, wrong } = await server.rows(key, first, PAGE);
    if (mine !== request) return; // a newer one is on its way
    if (wrong) return clear(wrong);
    page = answer;
    showMessage("");
    draw();
  }

  function draw() {
    title.textContent = range(page);
    list.hidden = all.hidden = false;
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
    if (total > files.length) lines.push(make("div", "", `and ${(total - files.length).toLocaleString()} more, in the log`));
    left.replaceChildren(make("summary", "", `${count(total, "file")} left out`),
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

  function songRow(row) {
    const [icon, play] = makeSvg("sidestep-icon", "0 0 12 12", "");
    const toggle = make("button", "sidestep-play", icon);
    const [svg, quiet, loud] = makeSvg("sidestep-wave", "0 0 120 100", "sidestep-quiet", "sidestep-loud");
    svg.setAttribute("preserveAspectRatio", "none");
    const [pen, penPath] = makeSvg("sidestep-icon", "0 0 12 12", "");
    penPath.setAttribute("d", EDIT);
    const edit = make("button", "sidestep-edit", pen);
    const line = make("div", "sidestep-song", toggle, svg, ...texts(row), edit);
    const made = { index: row.index, element: make("div", "", line), asked: false, mark, draw: drawWave };
    line.setAttribute("role", "row");
    toggle.type = edit.type = "button";
    edit.title = `Edit ${row.name}`;
    toggle.addEventListener("click", () => player.toggle(row));
    edit.addEventListener("click", () => editRow(row));
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      player.seek(row, (event.clientX - box.left) / box.width);
    });

    function mark() {
      const { playing, share } = player.state(row);
      play.setAttribute("d", playing ? PAUSE : PLAY);
      toggle.title = `${playing ? "Pause" : "Play"} ${row.name}`;
      toggle.setAttribute("aria-pressed", String(playing));
      loud.style.clipPath = `inset(0 ${100 - 100 * share}% 0 0)`;
    }

    function drawWave(peaks) {
      for (const path of [quiet, loud]) path.setAttribute("d", wave(peaks));
    }

    mark();
    return made;
  }

  function editRow(row) {
    editing = { key, row };
    editing.editor = openEditor(row, { save, closed: () => { editing = null; } });
  }

  /** After the songs are read again, attach the dialog to its song, if it is still there. */
  function followEdited() {
    const row = editing && page.rows.find(({ name }) => name === editing.row.name);
    if (!row) return;
    editing.key = key;
    editing.row = row;
    editing.editor.update(row);
  }

  async function save(values) {
    const { key: from, row } = editing;
    const { answer, wrong } = await server.save(from, row.index, values);
    if (wrong) return wrong;
    const place = from === key ? page.rows.findIndex(({ index }) => index === row.index) : -1;
    if (place < 0) return "";
    page.rows[place] = answer;
    const fresh = songRow(answer);
    shown[place].element.replaceWith(fresh.element);
    shown[place] = fresh;
    inSight.observe(fresh.element);
    showMessage(`${answer.name} is saved. Run the workflow again to use it.`);
    return "";
  }

  async function saveAll() {
    if (!sure) {
      all.textContent = "Press again to save";
      sure = setTimeout(unsure, SURE);
      return;
    }
    unsure();
    all.disabled = true;
    const { answer, wrong } = await server.saveAll(key);
    all.disabled = false;
    const saved = answer && `${count(answer.songs, "song")} saved.`;
    showMessage(wrong || [saved, ...answer.problems].join(" "));
  }

  function unsure() {
    clearTimeout(sure);
    sure = 0;
    all.textContent = SAVE_ALL;
  }

  return { element, show, stop: player.stop };
}

/** Text cells of a row. */
function texts(row) {
  const wrong = problems(row);
  const mark = wrong.length ? make("span", "sidestep-warned", wrong.length > 1 ? `! ${wrong.length}` : "!") : "";
  const name = textCell("sidestep-name", row.name, row.name);
  const caption = textCell(`sidestep-caption${row.caption ? "" : " sidestep-none"}`, captionText(row), row.caption);
  const cells = [name, textCell("sidestep-time", clock(row.seconds), ""), caption];
  for (const value of ["bpm", "key"]) {
    const { text, tooltip } = cell(row, value);
    cells.push(textCell(`sidestep-${value}`, text, tooltip));
  }
  const trouble = make("div", "sidestep-trouble", mark);
  trouble.title = wrong.join("\n");
  trouble.setAttribute("role", "cell");
  trouble.setAttribute("aria-label", wrong.join(" ") || "No problem");
  return [...cells, trouble];
}

function textCell(className, text, tooltip) {
  const element = make("div", className, text);
  element.title = tooltip;
  element.setAttribute("role", "cell");
  return element;
}

function textButton(text, title) {
  const element = make("button", "sidestep-button", text);
  element.type = "button";
  element.title = title;
  return element;
}
