// The row of buttons below a training: control of one under way, and what to do with one that has ended.

import { make } from "../dom.js";
import * as actions from "../runs/actions.js";
import { listRuns, reportAddress } from "../runs/server.js";
import { t } from "../words.js";

const MORE = 500; // steps
const OF_TRAINING = new Set(["load", "train", "preview", "save", "pause"]); // stages; a measurement before it is no run

/** Labels of the buttons that can be used now, for a state and the facts of its run (null if unknown). */
export function offered(state, run) {
  if (!state?.run || !OF_TRAINING.has(state.stage)) return [];
  const { status } = state;
  if (actions.UNDER_WAY.has(status)) {
    return actions.controls().filter(({ id, fits }) => fits(status) && (id === "stop" || state.training)).map(({ id }) => id);
  }
  if (!run) return [];
  const longer = run.status === "finished" && run.step >= run.total ? "longer" : "go-on";
  const resumable = run.step > 0 || run.status !== "failed";
  return [...(run.files.length ? ["use", "listen"] : []), ...(resumable ? [longer] : []), "compare",
    ...(run.files.length ? ["file"] : []), "report"];
}

/** {element, show(state), height() in pixels}; `node()` is the node of the panel. */
export function createControls({ node, heights, changed }) {
  const row = make("div", "sidestep-controls");
  const answer = make("div", "sidestep-answer");
  const element = make("div", "sidestep-actions", row, answer);
  answer.setAttribute("role", "status");
  let state = null;
  let run = null; // facts of an ended run, from the server
  let asked = ""; // run and status that they were asked for
  let busy = false;
  const after = [
    { id: "use", label: t("Use it"), title: t("Add nodes that load this adapter, for the model that you generate with"),
      send: () => actions.useAdapter(run.files[0], node()).then(() => t("Connect your model to Apply Adapter.")) },
    { id: "listen", label: t("Listen"), title: t("Compare adapters by ear in the sidebar"),
      send: () => actions.listen(`run/${run.id}`) },
    { id: "go-on", label: t("Continue"), title: t("Run again: the training goes on from its last step"),
      send: () => actions.goOn({ id: run.id, finished: run.status === "finished" }) },
    { id: "longer", label: t("Continue +{n}", { n: MORE }),
      title: t("Train {n} more steps, as a run of its own", { n: MORE }),
      send: () => actions.trainLonger(node(), run, MORE) },
    { id: "compare", label: t("Compare"), title: t("Compare with other trainings in the sidebar"),
      send: actions.compareRun },
    { id: "file", label: t("Show file"), title: t("Name the file of this adapter"),
      send: () => t("In models/loras: {files}", { files: run.files.join(", ") }) },
  ];
  const buttons = new Map([...actions.controls(), ...after].map((action) => [action.id, button(action)]));
  const report = make("a", "sidestep-button", t("Report"));
  report.target = "_blank";
  report.rel = "noopener";
  report.title = t("Open a page with the curve, the settings and the songs of this training");
  row.append(...buttons.values(), report);

  function button({ id, label, title, send }) {
    const made = make("button", "sidestep-button", label);
    made.type = "button";
    made.title = title;
    made.dataset.action = id;
    made.addEventListener("click", async () => {
      if (busy) return; // of a double click, the first counts
      busy = true;
      try {
        const result = await send(state.run);
        answer.textContent = typeof result === "string" ? result : "";
      } catch (error) {
        answer.textContent = error.message;
      }
      busy = false;
      changed();
    });
    return made;
  }

  function show(next) {
    if (next.run !== state?.run || next.status !== state?.status) answer.textContent = "";
    state = next;
    void learn();
    const usable = new Set(offered(state, run));
    const underWay = actions.UNDER_WAY.has(state.status);
    const paused = state.status === "paused";
    for (const { id } of actions.controls()) {
      // Of Pause and Continue, the one that makes sense; the others keep their place.
      const made = buttons.get(id);
      made.hidden = !underWay || !OF_TRAINING.has(state.stage) || (id === "pause" ? paused : id === "continue" && !paused);
      made.disabled = !usable.has(id);
    }
    for (const { id } of after) buttons.get(id).hidden = !usable.has(id);
    report.hidden = !usable.has("report");
    if (usable.has("report")) report.href = reportAddress(state.run);
    element.hidden = [...row.children].every(({ hidden }) => hidden);
  }

  /** Ask once for the facts of a run that has ended. */
  async function learn() {
    const key = state.run && OF_TRAINING.has(state.stage) && !actions.UNDER_WAY.has(state.status)
      ? `${state.run} ${state.status} ${state.step}` : "";
    if (key === asked) return;
    asked = key;
    run = null;
    if (!key) return;
    try {
      // Of the list, as a run whose folder is gone is none to complain about.
      const found = (await listRuns()).find(({ id }) => id === state.run) ?? null;
      if (key !== asked) return;
      run = found;
    } catch (error) {
      if (key !== asked) return;
      answer.textContent = error.message;
    }
    show(state);
    changed();
  }

  const height = () => (element.hidden ? 0 : Math.max(heights.controls, element.offsetHeight + 6));
  return { element, show, height };
}
