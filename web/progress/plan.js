// The plan of a training before it runs: songs, size, time, memory, and the cheapest change that makes it fit.

import { make } from "../dom.js";
import { fixed, plural, t, worded } from "../words.js";
import { duration, gigabytes } from "./progress.js";

const VERDICTS = {
  fits: () => t("fits"),
  tight: () => t("just fits: close other programs"),
  too_large: () => t("will not fit"),
  unknown: () => t("not known on this device"),
};

/** Texts of a plan: {songs, adapter, time, memory}; null where the plan has none. */
export function planTexts(plan) {
  if (!plan.songs) return null;
  const { songs, heldout, minutes, listens, modules, parameters, bytes, seconds, need, free, verdict } = plan;
  const found = {
    songs: plural(songs + heldout, "{n} song", "{n} songs"), length: duration(60 * minutes), heldout,
    times: listens < 10 ? fixed(listens, 1) : Math.round(listens),
  };
  const made = {
    modules: plural(modules, "{n} module", "{n} modules"),
    parameters: plural(parameters, "{n} parameter", "{n} parameters"),
    size: t("{size} MB", { size: Math.max(1, Math.round(bytes / 2 ** 20)) }),
  };
  const room = { need: gigabytes(need), free: free !== null && gigabytes(free), verdict: VERDICTS[verdict]() };
  return {
    songs: heldout ? t("{songs}, {length}, {heldout} held out; each about {times} times", found)
      : t("{songs}, {length}; each about {times} times", found),
    adapter: t("{modules}, {parameters}, {size}", made),
    time: seconds === null ? t("known after two steps") : t("about {time}", { time: duration(seconds) }),
    memory: free === null ? t("{need}: {verdict}", room) : t("{need} of {free} free: {verdict}", room),
  };
}

/**
 * {element, show(plan or null), idle(whether no training is shown), height() in pixels}; `change({node, widget}, value,
 * setting)` makes a change that the plan proposes.
 */
export function createPlan({ change }) {
  const lines = make("div", "sidestep-forecast-lines");
  const summary = make("summary", "", t("Next run"));
  const element = make("details", "sidestep-forecast", summary, lines);
  element.open = true;
  let texts = "";

  function show(plan) {
    const key = JSON.stringify(plan);
    if (key === texts) return;
    texts = key;
    lines.replaceChildren(...(plan ? linesOf(plan, change) : []));
    element.hidden = !lines.children.length;
    const made = plan && planTexts(plan);
    summary.textContent = made ? t("Next run: {verdict}", { verdict: VERDICTS[plan.verdict]() }) : t("Next run");
  }

  function idle(is) {
    if (element.classList.contains("sidestep-idle") === is) return;
    element.classList.toggle("sidestep-idle", is);
    element.open = is;
  }

  show(null);
  return { element, show, idle, height: () => (element.hidden ? 0 : element.offsetHeight + 6) };
}

function linesOf(plan, change) {
  const made = planTexts(plan);
  const line = (text, kind = "") => make("div", kind, text);
  const found = [];
  if (plan.message) found.push(line(worded(plan.message), plan.wrong ? "sidestep-forecast-wrong" : ""));
  if (made) {
    found.push(facts(made, plan));
    if (plan.fix) found.push(fixLine(plan.fix, change));
    if (plan.left_out) {
      const problems = make("ul", "", ...plan.problems.map((text) => make("li", "", worded(text))));
      const leftOut = plural(plan.left_out, "{n} file left out:", "{n} files left out:");
      found.push(line(leftOut, "sidestep-forecast-wrong"), problems);
    }
    found.push(...[...plan.notes, ...plan.notices].map((text) => line(worded(text))));
  }
  if (plan.name) found.push(line(worded(plan.name)));
  return found;
}

const labels = () => ({ songs: t("Songs"), adapter: t("Adapter"), time: t("Time"), memory: t("Memory") });

function facts(texts, { verdict, need, free }) {
  const rows = Object.entries(labels()).flatMap(([key, label]) => [make("dt", "", label), make("dd", "", texts[key])]);
  const memory = rows.at(-1);
  if (verdict === "too_large") memory.className = "sidestep-forecast-wrong";
  if (free > 0) {
    const fill = make("div", "sidestep-bin");
    fill.style.width = `${Math.min(100, (100 * need) / free)}%`;
    memory.append(make("div", "sidestep-track", fill));
  }
  return make("dl", "sidestep-forecast-facts", ...rows);
}

function fixLine({ sentence, place, setting, value }, change) {
  const text = t("{sentence}.", { sentence: worded(sentence) });
  const row = make("div", "sidestep-fix", make("span", "", `${text[0].toUpperCase()}${text.slice(1)}`));
  if (!place) return row;
  const button = make("button", "sidestep-button", t("Do it"));
  button.type = "button";
  button.title = t("Set {setting} to {value}", { setting, value: String(value) });
  button.addEventListener("click", () => change(place, value, setting));
  row.append(button);
  return row;
}
