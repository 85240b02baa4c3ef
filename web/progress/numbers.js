// The numbers of a training below its chart; the drawn ones carry the key of the chart.

import { make } from "../dom.js";
import { t } from "../words.js";
import { clock, decimal, duration, measured, memoryUse, newest, passes, perStep, power } from "./progress.js";

const cellTexts = () => ({
  loss: [t("Loss"), t("How far off the model still is, averaged over recent steps.")],
  heldout: ["", ""],
  lr: [t("Learning rate"), t("Size of the present steps.")],
  epoch: [t("Epoch"), t("Number of times that it has gone through all songs.")],
  pace: [t("Per step"), t("Time of one step, without previews and measurements.")],
  elapsed: [t("Elapsed"), t("Time since this training was started or continued.")],
  left: [t("Left"),
    t("Remaining steps at their recent pace, with the previews, measurements and checkpoints that are due.")],
  end: [t("Ends at"), t("Time of day at which it ends at this pace.")],
});

/** {element, show(state), height() in pixels}; `heights` has those of the numbers and of the line below. */
export function createNumbers(heights) {
  const cells = Object.fromEntries(Object.entries(cellTexts()).map(([key, [label, help]]) => {
    const [name, value] = [make("dt", "", label), make("dd", "")];
    const cell = make("div", `sidestep-cell sidestep-key-${key}`, name, value);
    cell.title = help;
    return [key, { cell, name, value }];
  }));
  const memory = createMemory();
  const table = make("dl", "sidestep-numbers", ...Object.values(cells).map(({ cell }) => cell));
  const element = make("div", "sidestep-facts", table, memory.element);

  function show(state) {
    const [label, explanation] = measured(state);
    cells.heldout.name.textContent = label;
    cells.heldout.cell.title = explanation;
    const eta = state.status === "running" ? state.metrics.eta_seconds : undefined;
    const texts = {
      loss: decimal(newest(state, "smoothed") ?? newest(state, "loss")),
      heldout: decimal(newest(state, "heldout")),
      lr: power(newest(state, "lr")),
      epoch: passes(newest(state, "epoch")),
      pace: perStep(state.metrics.step_seconds),
      elapsed: state.elapsed_seconds >= 1 ? duration(state.elapsed_seconds) : "-",
      left: duration(eta),
      end: clock(eta),
    };
    for (const [key, text] of Object.entries(texts)) cells[key].value.textContent = text;
    memory.show(state);
  }

  return { element, show, height: () => heights.numbers + (memory.element.hidden ? 0 : heights.memory) };
}

/** A bar of the memory in use, with a mark at the prediction; hidden where nobody can tell. */
function createMemory() {
  const fill = make("div", "sidestep-bin");
  const mark = make("div", "sidestep-predicted");
  const text = make("span", "");
  const track = make("div", "sidestep-track", fill, mark);
  const element = make("div", "sidestep-memory", make("span", "", t("Memory")), track, text);
  element.title = t("Memory of the graphics card: the most that this training has used so far, the prediction that was "
    + "made before it began (mark), and all that the card has.");

  function show({ metrics }) {
    const use = memoryUse(metrics);
    element.hidden = !use;
    if (!use) return;
    fill.style.width = `${use.used}%`;
    mark.hidden = use.predicted === null;
    mark.style.left = `${use.predicted}%`;
    text.textContent = use.text;
  }

  return { element, show };
}
