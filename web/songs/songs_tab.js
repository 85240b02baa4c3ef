// The tab Songs of the sidebar: folders of songs, a place to drop new ones, and the songs of one folder in a table.

import { button, make } from "../dom.js";
import { t } from "../words.js";
import { createDropZone } from "./drop_zone.js";
import { songsOf } from "./rows.js";
import { listFolders, scanFolder, songServer } from "./server.js";
import { createSongTable } from "./table.js";
import { openTrainDialog } from "./train_dialog.js";

const LATEST = "sidestep.songs.folder"; // key of the folder that was open last, in this browser
const HEIGHT = 260;
const INPUT = "input:"; // before the name of a folder of the input folder; others are ids of songs that a node has shown

/** {element, shown(), hidden()}. */
export function createSongsTab() {
  const train = button(t("Train on my songs"), "sidestep-button sidestep-main sidestep-big",
    t("Puts a whole graph onto the canvas: training with these songs, and generating with the result"));
  const folders = make("select", "");
  const again = button(t("Look again"), "sidestep-button", t("Read the folder again, for songs and texts that changed"));
  const zone = createDropZone(async (name) => {
    add.open = false;
    await list(`${INPUT}${name}`);
  });
  const add = make("details", "sidestep-add", make("summary", "", t("Add songs")), zone.element);
  const table = createSongTable({ hint: t("Add songs, or choose a folder."), height: HEIGHT, server: songServer,
    filters: true });
  const note = make("p", "sidestep-faint sidestep-songs-note");
  const element = make("div", "sidestep-songs-tab", train, add, make("div", "sidestep-folder", folders, again), note,
    table.element);
  let wanted = localStorage.getItem(LATEST) ?? "";
  let read = ""; // the folder in the table
  let chosen = 0; // number of choices so far

  folders.setAttribute("aria-label", t("Folder of songs"));
  note.setAttribute("role", "status");
  train.addEventListener("click", () => openTrainDialog(inputFolder()));
  again.addEventListener("click", () => {
    read = "";
    void list(folders.value);
  });
  folders.addEventListener("change", () => {
    chosen += 1;
    void open(folders.value);
  });

  const inputFolder = () => (folders.value.startsWith(INPUT) ? folders.value.slice(INPUT.length) : "");

  /** Read the list of folders, and open one of them. */
  async function list(choice) {
    const before = chosen;
    const { answer, wrong } = await listFolders();
    if (wrong) return say(wrong);
    if (chosen !== before) choice = folders.value; // a person was faster
    const own = answer.input.map(({ name, songs }) => new Option(`${name} (${songsOf(songs)})`, `${INPUT}${name}`));
    const elsewhere = answer.shown.map(({ preview, name, songs }) =>
      new Option(t("{folder} ({songs}, shown on a node)", { folder: name, songs: songsOf(songs) }), preview));
    folders.replaceChildren(new Option(t("Choose a folder"), ""), ...own, ...elsewhere);
    const known = [...folders.options].some(({ value }) => value === choice);
    add.open ||= !own.length && !elsewhere.length;
    await open(known ? choice : "");
  }

  async function open(choice) {
    folders.value = choice;
    again.disabled = !choice;
    if (read && read !== choice) table.empty(); // no song of another folder is to be changed by mistake
    if (!choice) {
      read = "";
      return say("");
    }
    localStorage.setItem(LATEST, choice);
    const otherFolder = choice !== wanted;
    wanted = choice;
    if (read === choice) return;
    read = choice;
    say(t("Reading the songs ..."));
    const { answer, wrong } = choice.startsWith(INPUT) ? await scanFolder(choice.slice(INPUT.length))
      : { answer: { preview: choice } };
    if (read !== choice) return; // another one was chosen
    if (wrong) read = "";
    say(wrong ?? "");
    if (answer) await table.show(answer.preview, { otherFolder });
  }

  function say(text) {
    note.textContent = text;
  }

  return {
    element,
    shown: () => void list(wanted),
    hidden: () => table.pause(),
  };
}
