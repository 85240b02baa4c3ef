// The tab Listen of the sidebar: comparisons, and the previews of runs.

import { make } from "../dom.js";
import { listRuns } from "../runs/server.js";
import { locale, t } from "../words.js";
import { createPlayer } from "./player.js";
import { wanted } from "./request.js";
import { fromComparison, keep, listComparisons, readComparison, readPreviews, vote, votePreview } from "./server.js";
import { use } from "./use.js";

const nothing = () => t("Nothing to listen to yet. Compare Adapters makes takes of one prompt and seed; a training makes "
  + "previews if preview_every is set.");

/** {element, shown(), hidden()}. */
export function createListenTab() {
  const choice = make("select", "sidestep-listen-source");
  const prompt = make("p", "sidestep-listen-prompt");
  const facts = make("p", "sidestep-listen-facts");
  const empty = make("p", "sidestep-empty", nothing());
  const player = createPlayer({
    vote: async (take) => (current.kind === "run" ? votePreview(current, take) : fromComparison(await vote(current.id, take))),
    keep: async (take) => fromComparison(await keep(current.id, take)),
    use: async (take) => use(current.takes[take - 1]),
  });
  const content = make("div", "sidestep-listen-tab", choice, prompt, facts, player.element);
  const element = make("div", "", content, empty);
  let current = null; // what is in the player
  let visible = false;
  let sources = new Map(); // value of an option -> function that reads it

  choice.setAttribute("aria-label", t("What to listen to"));
  choice.addEventListener("change", () => open(choice.value));
  for (const type of ["keydown", "keyup"]) choice.addEventListener(type, (event) => event.stopPropagation());
  content.hidden = true;
  wanted.addEventListener("change", () => visible && refresh());

  async function refresh() {
    try {
      const [comparisons, runs] = await Promise.all([listComparisons(), listRuns()]);
      fill(comparisons, runs.filter(({ previews }) => previews.some(({ message }) => !message)));
    } catch (error) {
      show(null, error.message);
    }
  }

  function fill(comparisons, runs) {
    sources = new Map([
      ...comparisons.map(({ id }) => [`comparison/${id}`, async () => {
        const made = await readComparison(id);
        return made && fromComparison(made);
      }]),
      ...runs.map((run) => [`run/${run.id}`, () => readPreviews(run)]),
    ]);
    choice.replaceChildren(
      group(t("Comparisons"), comparisons.map((made) => [`comparison/${made.id}`, comparisonName(made)])),
      group(t("Previews of runs"), runs.map((run) => [`run/${run.id}`, run.name])),
    );
    const asked = wanted.take();
    const kept = current && `${current.kind}/${current.id}`;
    const value = [asked, kept, ...sources.keys()].find((each) => sources.has(each));
    if (!value) return show(null, nothing());
    choice.value = value;
    return open(value);
  }

  async function open(value) {
    try {
      const session = await sources.get(value)();
      if (choice.value === value) show(session, t("These takes are gone."));
    } catch (error) {
      show(null, error.message);
    }
  }

  function show(session, otherwise) {
    const same = session && current && session.id === current.id && session.takes.length === current.takes.length;
    current = session;
    content.hidden = !session;
    empty.hidden = Boolean(session);
    empty.textContent = otherwise;
    if (!session) return player.stop();
    prompt.textContent = prompt.title = session.prompt;
    prompt.hidden = !session.prompt;
    facts.textContent = session.facts;
    if (!same || !player.isLoaded()) player.show(session);
    return undefined;
  }

  return {
    element,
    shown() {
      visible = true;
      refresh();
    },
    hidden() {
      visible = false;
      player.release();
    },
  };
}

function group(label, options) {
  const made = make("optgroup", "", ...options.map(([value, text]) => {
    const option = make("option", "", text);
    option.value = value;
    return option;
  }));
  made.label = label;
  made.hidden = !options.length;
  return made;
}

/** "my_lora, mine - 21 Nov, 10:15" */
function comparisonName({ created, takes }) {
  const names = [...new Set(takes.slice(1).map(({ name }) => name))].join(", ");
  const parts = { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" };
  const time = new Date(created * 1000).toLocaleString(locale(), parts);
  return `${names} \u2013 ${time}`;
}
