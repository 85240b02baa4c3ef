// Tabs with a keyboard: arrow keys, Home and End go from one to the next, Tab goes into the content.

import { make } from "../dom.js";

const MOVES = {
  ArrowRight: (index, count) => (index + 1) % count,
  ArrowLeft: (index, count) => (index + count - 1) % count,
  Home: () => 0,
  End: (_, count) => count - 1,
};

/**
 * {element, select(id), selected(), focus()}; each tab is {id, label, title, content: {element}}.  `changed(id)` is called
 * for every change.
 */
export function createTabs(name, tabs, changed) {
  const list = make("div", "sidestep-tabs");
  const made = tabs.map((tab) => createTab(tab, () => select(tab.id)));
  const element = make("div", "sidestep-sidebar", list, ...made.map(({ panel }) => panel));
  let current = null;

  function select(id) {
    if (current?.id === id) return;
    current = made.find((tab) => tab.id === id) ?? made[0];
    for (const { id: each, button, panel } of made) {
      const chosen = each === current.id;
      button.setAttribute("aria-selected", String(chosen));
      button.tabIndex = chosen ? 0 : -1;
      panel.hidden = !chosen;
    }
    changed(current.id);
  }

  list.setAttribute("role", "tablist");
  list.setAttribute("aria-label", name);
  list.append(...made.map(({ button }) => button));
  list.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation(); // ComfyUI's canvas has arrow keys of its own
    const next = made[move(made.indexOf(current), made.length)];
    select(next.id);
    next.button.focus();
  });
  return { element, select, selected: () => current, focus: () => current.button.focus() };
}

function createTab({ id, label, title, content }, choose) {
  const button = make("button", "sidestep-tab", label);
  const panel = make("div", "sidestep-tab-content", content.element);
  button.type = "button";
  button.id = `sidestep-tab-${id}`;
  button.title = title;
  button.setAttribute("role", "tab");
  button.setAttribute("aria-controls", `sidestep-tab-content-${id}`);
  button.addEventListener("click", choose);
  panel.id = `sidestep-tab-content-${id}`;
  panel.setAttribute("role", "tabpanel");
  panel.setAttribute("aria-labelledby", button.id);
  return { id, button, panel, content };
}
