// The blind test of a player: names hidden and rows shuffled until a vote.

import { make } from "../dom.js";
import { plural, t } from "../words.js";
import { letter, shuffled, takeName } from "./levels.js";

/** Names, order and vote buttons of rows.  `begin()` is called to draw them again, `vote(take)` for a vote. */
export function createBlindTest({ begin, vote }) {
  const button = make("button", "sidestep-button", t("Blind test"));
  let hidden = null; // shuffled numbers of takes while names are hidden
  let last = null; // the order that was revealed

  button.type = "button";
  button.title = t("Hide the names and shuffle the takes, then vote for the best");
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    hidden = hidden ? null : [];
    last = null;
    mark();
    begin();
  });

  function mark() {
    button.textContent = hidden ? t("Show names") : t("Blind test");
    button.setAttribute("aria-pressed", String(Boolean(hidden)));
  }

  function order(count) {
    if (hidden && hidden.length !== count) hidden = shuffled(count);
    return hidden ?? (last?.length === count ? last : Array.from({ length: count }, (_, index) => index));
  }

  /** What a row is called, for the eye and for a screen reader. */
  function names(session, take, place) {
    if (hidden) return { text: letter(place), title: "", label: t("Take {letter}", { letter: letter(place) }) };
    const { [take]: votes = 0 } = session.votes;
    const name = takeName(session.takes[take]);
    const text = [name, ...(session.kept === take + 1 ? [t("kept")] : []),
      ...(votes ? [plural(votes, "{n} blind vote", "{n} blind votes")] : [])].join(", ");
    const { adapter_file: file, checkpoint } = session.takes[take];
    return { text, title: file || checkpoint || name, label: text };
  }

  function voting(take, place) {
    if (!hidden) return [];
    const best = make("button", "sidestep-button", t("Best"));
    best.type = "button";
    best.setAttribute("aria-label", t("Vote for take {letter}", { letter: letter(place) }));
    best.addEventListener("click", () => vote(take));
    return [best];
  }

  function reveal() {
    last = hidden;
    hidden = null;
    mark();
  }

  function reset() {
    hidden = last = null;
    mark();
  }

  return { button, order, names, voting, reveal, reset, hides: () => hidden !== null };
}
