// One row of a song table: play, waveform, name, length, caption, tempo, key, problems, edit.

import { button, make, makeSvg } from "../dom.js";
import { t } from "../words.js";
import { captionText, cell, clock, problems, wave } from "./rows.js";

const PLAY = "M3 1.5v9l7.5 -4.5z";
const PAUSE = "M3 1.5v9M8.5 1.5v9";
const EDIT = "M2 10l.6 -2.6l5.6 -5.6l2 2l-5.6 5.6z";

/**
 * {index, element, asked, mark(), draw(peaks)}; `edit(row)` opens its dialog; `saveCaption(row, text)`, if given, lets its
 * caption be written in the row and returns a promise of an error in words, or of nothing.
 */
export function createSongRow(row, { player, edit, saveCaption }) {
  const [icon, play] = makeSvg("sidestep-icon", "0 0 12 12", "");
  const toggle = button(icon, "sidestep-play");
  const [svg, quiet, loud] = makeSvg("sidestep-wave", "0 0 120 100", "sidestep-quiet", "sidestep-loud");
  const [pen, penPath] = makeSvg("sidestep-icon", "0 0 12 12", "");
  const open = button(pen, "sidestep-edit", t("Edit {name}", { name: row.name }));
  const line = make("div", "sidestep-song", inCell("play", toggle), svg, ...texts(row, saveCaption), inCell("edit", open));
  const made = { index: row.index, element: make("div", "", line), asked: false, mark, draw };
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true"); // the button plays, too
  penPath.setAttribute("d", EDIT);
  line.setAttribute("role", "row");
  toggle.addEventListener("click", () => player.toggle(row));
  open.addEventListener("click", () => edit(row));
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect();
    player.seek(row, (event.clientX - box.left) / box.width);
  });

  function mark() {
    const { playing, share } = player.state(row);
    play.setAttribute("d", playing ? PAUSE : PLAY);
    toggle.title = playing ? t("Pause {name}", { name: row.name }) : t("Play {name}", { name: row.name });
    toggle.setAttribute("aria-pressed", String(playing));
    loud.style.clipPath = `inset(0 ${100 - 100 * share}% 0 0)`;
  }

  function draw(peaks) {
    for (const path of [quiet, loud]) path.setAttribute("d", wave(peaks));
  }

  mark();
  return made;
}

/** Text cells of a row. */
function texts(row, saveCaption) {
  const wrong = problems(row);
  const mark = wrong.length ? make("span", "sidestep-warned", wrong.length > 1 ? `! ${wrong.length}` : "!") : "";
  const className = `sidestep-caption${row.caption ? "" : " sidestep-none"}`;
  const caption = saveCaption && !row.section ? captionCell(row, className, saveCaption)
    : textCell(className, captionText(row), row.caption);
  const cells = [textCell("sidestep-name", row.name, row.name), textCell("sidestep-time", clock(row.seconds), ""), caption];
  for (const value of ["bpm", "key"]) {
    const { text, tooltip } = cell(row, value);
    cells.push(textCell(`sidestep-${value}`, text, tooltip));
  }
  const trouble = make("div", "sidestep-trouble", mark);
  trouble.title = wrong.join("\n");
  trouble.setAttribute("role", "cell");
  trouble.setAttribute("aria-label", wrong.join(" ") || t("No problem"));
  return [...cells, trouble];
}

/** Cell that becomes a field when it is pressed: Enter or Save writes the caption, Escape or Cancel leaves it as it was. */
function captionCell(row, className, saveCaption) {
  const text = button(captionText(row), "sidestep-write", row.caption || t("Write a caption"));
  const element = make("div", className, text);
  const label = t("Caption of {name}", { name: row.name });
  text.setAttribute("aria-label", `${label}: ${captionText(row)}`);
  element.setAttribute("role", "cell");
  text.addEventListener("click", () => {
    const field = make("textarea", "");
    const note = make("span", "sidestep-edit-note");
    const save = button(t("Save"), "sidestep-button sidestep-save", t("Writes it into a text file next to the song (Enter)"));
    const cancel = button(t("Cancel"), "sidestep-button", t("Escape"));
    let warned = false; // that the caption is not saved
    Object.assign(field, { value: row.caption, rows: 3, name: "caption" });
    field.setAttribute("aria-label", label);
    note.setAttribute("role", "status");
    element.classList.add("sidestep-writing");
    element.replaceChildren(field, make("div", "sidestep-head", note, cancel, save));
    field.focus();

    async function write() {
      save.disabled = true;
      note.textContent = await saveCaption(row, field.value); // a row that was saved is drawn again
      save.disabled = false;
    }

    /** A changed caption is left by Discard only, never by one key or press. */
    function leave() {
      if (field.value !== row.caption && !warned) {
        warned = true;
        cancel.textContent = t("Discard");
        note.textContent = t("Not saved yet.");
        return;
      }
      element.classList.remove("sidestep-writing");
      element.replaceChildren(text);
      text.focus();
    }

    save.addEventListener("click", () => void write());
    cancel.addEventListener("click", leave);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !warned) leave();
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      void write();
    });
    for (const type of ["keydown", "keyup", "paste", "copy", "cut", "pointerdown"]) {
      field.addEventListener(type, (event) => event.stopPropagation()); // keys must not trigger ComfyUI's shortcuts
    }
  });
  return element;
}

function textCell(className, text, tooltip) {
  const element = make("div", className, text);
  element.title = tooltip;
  element.setAttribute("role", "cell");
  return element;
}

function inCell(name, child) {
  const element = make("div", `sidestep-${name}-cell`, child);
  element.setAttribute("role", "cell");
  return element;
}
