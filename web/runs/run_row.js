// One run in the list: name, status, curve, the likeliest action, and everything else when it is opened.

import { make, makeSvg } from "../dom.js";
import { share } from "../progress/progress.js";
import { t } from "../words.js";
import { actionsFor } from "./run_actions.js";
import { facts, isUnderWay, moment, resultLine, sparkline, statusLine } from "./run_words.js";

const NOTE = 4000; // characters that the server keeps
const OPEN = "M4 2.5l4 3.5l-4 3.5";

/**
 * {element, show(run, ticked)}; `act(action, run)` does something with it, `tick(run, ticked)` chooses it for comparing,
 * `write(run, note)` keeps a note.
 */
export function createRow({ act, tick, write }) {
  const box = make("input", "sidestep-run-tick");
  const [chevron] = makeIcon(OPEN);
  const name = make("span", "sidestep-run-name");
  const opener = make("button", "sidestep-run-open", chevron, name);
  const [curve, path] = makeSvg("sidestep-sparkline", "0 -6 100 112", "");
  const status = make("span", "sidestep-run-status");
  const time = make("span", "sidestep-run-time");
  const fill = make("div", "sidestep-run-fill");
  const bar = make("div", "sidestep-run-bar", fill);
  const result = make("span", "sidestep-run-result");
  const first = make("span", "sidestep-run-first");
  const more = make("div", "sidestep-run-more");
  const element = make("li", "sidestep-run", make("div", "sidestep-run-head", box, opener, curve),
    make("div", "sidestep-run-state", status, time), bar,
    make("div", "sidestep-run-foot", result, first), more);
  const note = createNote((text) => write(shown, text));
  let shown = null;
  let drawn = "";

  box.type = "checkbox";
  box.addEventListener("change", () => tick(shown, box.checked));
  opener.type = "button";
  opener.addEventListener("click", () => {
    more.hidden = !more.hidden;
    opener.setAttribute("aria-expanded", String(!more.hidden));
    drawMore();
  });
  opener.setAttribute("aria-expanded", "false");
  more.hidden = true;
  curve.setAttribute("preserveAspectRatio", "none");
  curve.setAttribute("aria-hidden", "true");

  function show(run, ticked, now) {
    shown = run;
    box.checked = ticked;
    const key = JSON.stringify([run, new Date(now).toDateString()]);
    if (key === drawn) return;
    drawn = key;
    element.dataset.status = run.status;
    name.textContent = name.title = run.name;
    box.title = t("Compare {name} with others", { name: run.name });
    box.setAttribute("aria-label", box.title);
    status.textContent = statusLine(run);
    time.textContent = isUnderWay(run) ? "" : moment(run.started, now);
    result.textContent = result.title = resultLine(run);
    bar.hidden = !isUnderWay(run);
    fill.style.width = `${100 * (share({ ...run, stage: "train", training: [run.step, run.total] }) ?? 0)}%`;
    path.setAttribute("d", sparkline(run.sparkline.filter(Number.isFinite)));
    replaceButtons(first, actionsFor(run).slice(0, 1).map((action) => button(action)));
    drawMore();
  }

  function drawMore() {
    if (more.hidden || !shown) return;
    const list = facts(shown).map(([label, text]) => make("div", "", make("dt", "", label), make("dd", "", text)));
    const message = make("p", "sidestep-run-message", shown.message);
    const buttons = make("div", "sidestep-run-actions", ...actionsFor(shown).slice(1).map((action) => button(action)));
    note.show(shown.note, shown.name);
    const parts = [...(shown.message ? [message] : []), make("dl", "sidestep-run-facts", ...list), note.element, buttons];
    if (more.contains(document.activeElement)) return redrawFocused(parts);
    more.replaceChildren(...parts);
  }

  /** What holds the focus stays; the texts are drawn again when it has left. */
  function redrawFocused(parts) {
    const old = more.querySelector(".sidestep-run-facts");
    old?.replaceWith(parts.find((part) => part.className === "sidestep-run-facts"));
    replaceButtons(more.querySelector(".sidestep-run-actions"), [...parts.at(-1).children]);
  }

  function button({ id, label, title }) {
    const made = make("button", "sidestep-run-button", label);
    made.type = "button";
    made.title = title;
    made.dataset.action = id;
    made.setAttribute("aria-label", `${label}: ${shown.name}`);
    made.addEventListener("click", () => act(id, shown, made));
    return made;
  }

  return { element, show };
}

/** Buttons that are there already stay, so that a click in progress is not lost and the focus stays. */
function replaceButtons(place, buttons) {
  const ids = (list) => [...list].map(({ dataset }) => dataset.action).join();
  if (ids(place.children) !== ids(buttons)) place.replaceChildren(...buttons);
}

function makeIcon(shape) {
  const [icon, path] = makeSvg("sidestep-icon", "0 0 12 12", "");
  path.setAttribute("d", shape);
  return [icon];
}

/** A field for a note, kept when it is left. */
function createNote(write) {
  const field = make("textarea", "sidestep-run-note");
  let kept = "";
  field.rows = 2;
  field.maxLength = NOTE;
  field.placeholder = t("Note");
  field.addEventListener("change", () => write(field.value));
  for (const type of ["keydown", "keyup", "paste", "copy", "cut"]) {
    field.addEventListener(type, (event) => event.stopPropagation()); // keys must not trigger ComfyUI's shortcuts
  }

  function show(note, name) {
    field.setAttribute("aria-label", t("Note about {name}", { name }));
    if (field.value === kept) field.value = note; // what is being written stays
    kept = note;
  }

  return { element: field, show };
}
