// The blind test of a player: names hidden and rows shuffled until a vote.

import { make } from "../dom.js";
import { letter, shuffled, takeName } from "./levels.js";

/** Names, order and vote buttons of rows.  `begin()` is called to draw them again, `vote(take)` for a vote. */
export function createBlindTest({ begin, vote }) {
  const button = make("button", "sidestep-button", "Blind test");
  let hidden = null; // shuffled numbers of takes while names are hidden
  let last = null; // the order that was revealed

  button.type = "button";
  button.title = "Hide the names and shuffle the takes, then vote for the best";
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    hidden = hidden ? null : [];
    last = null;
    mark();
    begin();
  });

  function mark() {
    button.textContent = hidden ? "Show names" : "Blind test";
    button.setAttribute("aria-pressed", String(Boolean(hidden)));
  }

  function order(count) {
    if (hidden && hidden.length !== count) hidden = shuffled(count);
    return hidden ?? (last?.length === count ? last : Array.from({ length: count }, (_, index) => index));
  }

  /** What a row is called, for the eye and for a screen reader. */
  function names(session, take, place) {
    if (hidden) return { text: letter(place), title: "", label: `Take ${letter(place)}` };
    const { [take]: votes = 0 } = session.votes;
    const kept = session.kept === take + 1 ? ", kept" : "";
    const count = votes ? `, ${votes} blind vote${votes === 1 ? "" : "s"}` : "";
    const name = takeName(session.takes[take]);
    const { adapter_file: file, checkpoint } = session.takes[take];
    return { text: `${name}${kept}${count}`, title: file || checkpoint || name, label: `${name}${kept}${count}` };
  }

  function voting(take, place) {
    if (!hidden) return [];
    const best = make("button", "sidestep-button", "Best");
    best.type = "button";
    best.setAttribute("aria-label", `Vote for take ${letter(place)}`);
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
