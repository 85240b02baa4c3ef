// The tab Runs of the sidebar: every training, running and past.

import { make } from "../dom.js";
import { wantedRun } from "../listen/request.js";
import { plural, t } from "../words.js";
import { act } from "./run_actions.js";
import { openComparison } from "./comparison.js";
import { refreshRuns, watchRuns } from "./run_list.js";
import { createRow } from "./run_row.js";
import { grouped, matches, statusWord } from "./run_words.js";
import { writeNote } from "./server.js";

const SEARCHED = 10; // with more runs there is a search
const MOST = 8; // curves that can be told apart

/** {element, shown(), hidden()}. */
export function createRunsTab() {
  const search = make("input", "sidestep-search");
  const compare = make("button", "sidestep-run-button sidestep-compare", t("Compare"));
  const head = make("div", "sidestep-runs-head", search, compare);
  const status = make("p", "sidestep-runs-status");
  const list = make("div", "sidestep-runs-list");
  const element = make("div", "sidestep-runs", head, status, list);
  const rows = new Map(); // run -> row
  const ticked = new Set();
  let runs = [];
  let order = "";
  let stop = null;

  search.type = "search";
  search.placeholder = t("Search");
  search.setAttribute("aria-label", t("Search runs"));
  search.addEventListener("input", draw);
  for (const type of ["keydown", "keyup", "paste", "copy", "cut"]) {
    search.addEventListener(type, (event) => event.stopPropagation()); // keys must not trigger ComfyUI's shortcuts
  }
  compare.type = "button";
  compare.title = t("Lay the curves of the ticked runs over each other");
  compare.addEventListener("click", () => openComparison(runs.filter(({ id }) => ticked.has(id))));
  status.setAttribute("role", "status");
  wantedRun.addEventListener("change", () => stop && refreshRuns());

  function update(found, failure) {
    if (failure) say(failure);
    if (!found) return;
    announce(found);
    runs = found;
    for (const id of ticked) if (!runs.some((run) => run.id === id)) ticked.delete(id);
    draw();
    choose(runs.find(({ id }) => id === wantedRun.source));
  }

  /** Tick a run that another part of the page wants to compare with others. */
  function choose(run) {
    if (!run) return; // the list may not have it yet
    wantedRun.take();
    tick(run, true);
    rows.get(run.id)?.element.scrollIntoView({ block: "nearest" });
    if (ticked.size < 2) say(t("Tick another run to compare {name} with.", { name: run.name }));
  }

  /** Changes of state are read out, and seen by those who look elsewhere in the list. */
  function announce(found) {
    for (const run of found) {
      const before = runs.find(({ id }) => id === run.id);
      if (before && before.status !== run.status) {
        say(t("{name}: {status}.", { name: run.name, status: statusWord(run).toLowerCase() }));
      }
    }
  }

  function say(text) {
    status.textContent = text;
  }

  function draw() {
    const now = Date.now();
    const found = runs.filter((run) => matches(run, search.value));
    search.hidden = runs.length <= SEARCHED && !search.value;
    compare.hidden = ticked.size < 2;
    compare.textContent = plural(ticked.size, "Compare {n} run", "Compare {n} runs");
    head.hidden = search.hidden && compare.hidden;
    for (const run of found) rowOf(run).show(run, ticked.has(run.id), now);
    const groups = grouped(found, now);
    const wanted = JSON.stringify([runs.length > 0, groups.map(([name, members]) => [name, members.map(({ id }) => id)])]);
    if (wanted === order) return;
    order = wanted;
    const focused = document.activeElement;
    list.replaceChildren(...(groups.length ? groups.map(section) : [empty()]));
    if (list.contains(focused)) focused.focus();
    for (const id of rows.keys()) if (!runs.some((run) => run.id === id)) rows.delete(id);
  }

  const empty = () => make("p", "sidestep-empty", runs.length ? t("No run has these words.")
    : t("No training yet. Run a workflow with Train LoRA: each of its trainings is kept here."));

  function section([name, members]) {
    const title = make("h3", "sidestep-runs-group", name);
    return make("section", "", title, make("ul", "", ...members.map((run) => rows.get(run.id).element)));
  }

  function rowOf(run) {
    if (!rows.has(run.id)) rows.set(run.id, createRow({ act: onAction, tick, write }));
    return rows.get(run.id);
  }

  async function onAction(id, run, button) {
    button.disabled = true; // a double click is one
    await attempt(() => act(id, run));
    button.disabled = false;
    await refreshRuns();
  }

  function tick({ id }, chosen) {
    if (chosen && ticked.size >= MOST) say(t("At most {n} runs are compared.", { n: MOST }));
    else if (chosen) ticked.add(id);
    else ticked.delete(id);
    draw();
  }

  async function write({ id, name }, note) {
    await attempt(async () => {
      await writeNote(id, note);
      return t("The note about {name} is kept.", { name });
    });
    await refreshRuns();
  }

  async function attempt(action) {
    try {
      say(await action());
    } catch (error) {
      say(error.message);
    }
  }

  return {
    element,
    shown() {
      say("");
      stop ??= watchRuns(update);
    },
    hidden() {
      stop?.();
      stop = null;
    },
  };
}
