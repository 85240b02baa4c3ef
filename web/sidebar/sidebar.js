// ComfyUI's sidebar tab "Side-Step" with the tabs Songs, Runs and Listen, and the commands that open them.

import { app } from "../../../scripts/app.js";
import { addStyles } from "../dom.js";
import { createListenTab } from "../listen/listen_tab.js";
import { followTrainings } from "../runs/notices.js";
import { createRunsTab } from "../runs/runs_tab.js";
import { createSongsTab } from "../songs/songs_tab.js";
import { t } from "../words.js";
import { createTabs } from "./tabs.js";

const SIDEBAR = "side-step";
const LATEST = "sidestep.sidebar.tab"; // key of the tab that was open last, in this browser
const ICON = "sidestep-sidebar-icon";
const COMMANDS = [ // ComfyUI translates them, from locales/
  { id: "SideStep.ShowSongs", label: "Show songs", tab: "songs" },
  { id: "SideStep.ShowRuns", label: "Show runs", tab: "runs" },
  { id: "SideStep.Listen", label: "Listen", tab: "listen" },
];

let tabs = null; // made when it is first shown

const contents = () => [
  { id: "songs", label: t("Songs"), title: t("Your songs, and what is written about them"), content: createSongsTab() },
  { id: "runs", label: t("Runs"), title: t("All trainings, running and past"), content: createRunsTab() },
  { id: "listen", label: t("Listen"), title: t("Compare adapters by ear"), content: createListenTab() },
];

function createSidebar() {
  let visible = false;
  let seen = null;
  const made = createTabs("Side-Step", contents(), (id) => {
    localStorage.setItem(LATEST, id);
    follow();
  });

  /** Let the content in sight work, and no other. */
  function follow() {
    const content = visible ? made.selected()?.content : null;
    if (content === seen) return;
    seen?.hidden();
    seen = content ?? null;
    seen?.shown();
  }

  // ComfyUI does not call destroy() when another tab takes the place of this one, and hides the sidebar in focus mode.
  new IntersectionObserver((changes) => {
    visible = changes.at(-1).isIntersecting; // of several changes, the latest
    follow();
  }).observe(made.element);
  made.select(localStorage.getItem(LATEST));
  return made;
}

/** ComfyUI calls this at each of its own renderings, too. */
function render(container) {
  tabs ??= createSidebar();
  if (tabs.element.parentNode !== container) container.replaceChildren(tabs.element);
}

/** Open the sidebar at one of its tabs. */
export function openSidebar(id) {
  tabs ??= createSidebar();
  tabs.select(id);
  const { sidebarTab } = app.extensionManager;
  if (sidebarTab.activeSidebarTabId !== SIDEBAR) sidebarTab.toggleSidebarTab(SIDEBAR);
  requestAnimationFrame(() => tabs.focus());
}

app.registerExtension({
  name: "sidestep.sidebar",
  commands: COMMANDS.map(({ id, label, tab }) => ({
    id, label: `Side-Step: ${label}`, menubarLabel: label, icon: ICON, function: () => openSidebar(tab),
  })),
  menuCommands: [{ path: ["Side-Step"], commands: COMMANDS.map(({ id }) => id) }],
  init() {
    addStyles("./sidebar.css", import.meta.url);
    addStyles("../runs/runs.css", import.meta.url);
  },
  setup() {
    followTrainings();
    app.extensionManager.registerSidebarTab({
      id: SIDEBAR, title: "Side-Step", tooltip: t("Side-Step: songs, runs, listening"), icon: ICON, type: "custom", render,
    });
  },
});
