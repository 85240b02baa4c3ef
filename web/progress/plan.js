// The plan of a training before it runs: songs, size, time, memory, and the cheapest change that makes it fit.

import { make } from "../dom.js";
import { duration, gigabytes } from "./progress.js";

const VERDICTS = {
  fits: "fits",
  tight: "just fits: close other programs",
  too_large: "will not fit",
  unknown: "not known on this device",
};
const plural = (count, thing) => `${count.toLocaleString()} ${thing}${count === 1 ? "" : "s"}`;

/** Texts of a plan: {songs, adapter, time, memory}; null where the plan has none. */
export function planTexts(plan) {
  if (!plan.songs) return null;
  const { songs, heldout, minutes, listens, modules, parameters, bytes, seconds, need, free, verdict } = plan;
  const times = listens < 10 ? listens.toFixed(1) : Math.round(listens).toLocaleString();
  const megabytes = Math.max(1, Math.round(bytes / 2 ** 20)).toLocaleString();
  return {
    songs: `${plural(songs + heldout, "song")}, ${duration(60 * minutes)}${heldout ? `, ${heldout} held out` : ""}; `
      + `each about ${times} times`,
    adapter: `${plural(modules, "module")}, ${plural(parameters, "parameter")}, ${megabytes} MB`,
    time: seconds === null ? "known after two steps" : `about ${duration(seconds)}`,
    memory: `${gigabytes(need)}${free === null ? "" : ` of ${gigabytes(free)} free`}: ${VERDICTS[verdict]}`,
  };
}

/**
 * {element, show(plan or null), idle(whether no training is shown), height() in pixels}; `change({node, widget}, value,
 * setting)` makes a change that the plan proposes.
 */
export function createPlan({ change }) {
  const lines = make("div", "sidestep-forecast-lines");
  const summary = make("summary", "", "Next run");
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
    summary.textContent = made ? `Next run: ${VERDICTS[plan.verdict]}` : "Next run";
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
  if (plan.message) found.push(line(plan.message, plan.wrong ? "sidestep-forecast-wrong" : ""));
  if (made) {
    found.push(facts(made, plan));
    if (plan.fix) found.push(fixLine(plan.fix, change));
    if (plan.left_out) {
      const problems = make("ul", "", ...plan.problems.map((text) => make("li", "", text)));
      found.push(line(`${plural(plan.left_out, "file")} left out:`, "sidestep-forecast-wrong"), problems);
    }
    found.push(...plan.notes.map((text) => line(text)), ...plan.notices.map((text) => line(text)));
  }
  if (plan.name) found.push(line(plan.name));
  return found;
}

const LABELS = { songs: "Songs", adapter: "Adapter", time: "Time", memory: "Memory" };

function facts(texts, { verdict, need, free }) {
  const rows = Object.entries(LABELS).flatMap(([key, label]) => [make("dt", "", label), make("dd", "", texts[key])]);
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
  const text = make("span", "", `${sentence[0].toUpperCase()}${sentence.slice(1)}.`);
  const row = make("div", "sidestep-fix", text);
  if (!place) return row;
  const button = make("button", "sidestep-button", "Do it");
  button.type = "button";
  button.title = `Set ${setting} to ${value}`;
  button.addEventListener("click", () => change(place, value, setting));
  row.append(button);
  return row;
}
