// Place to drop songs: uploads them into a new folder of ComfyUI's input folder, with progress, and names what stays out.

import { button, make } from "../dom.js";
import { fixed, plural, t, worded } from "../words.js";
import { leftOut } from "./rows.js";
import { planUpload } from "./server.js";
import { filesOfDrop, filesOfInput, upload } from "./upload.js";

const MEGABYTE = 2 ** 20;

/** {element, cancel(), uploading()}; `uploaded(folder)` is called with the name of the new folder. */
export function createDropZone(uploaded) {
  const folder = picker({ webkitdirectory: true }, t("Folder with songs"));
  const files = picker({ multiple: true }, t("Songs and their text files"));
  const chooseFolder = button(t("Choose a folder"), "sidestep-button sidestep-main");
  const chooseFiles = button(t("Choose files"), "sidestep-button");
  const ask = make("div", "sidestep-drop-ask",
    make("strong", "", t("Drop your songs here, or a folder with them")),
    make("div", "sidestep-choices", chooseFolder, chooseFiles),
    make("span", "sidestep-faint", t("They are copied to ComfyUI's input folder. Captions and lyrics beside them, "
      + "such as song.txt, come along.")));
  const text = make("span", "sidestep-upload-text");
  const fill = make("div", "sidestep-fill");
  const cancel = button(t("Cancel"), "sidestep-button");
  const busy = make("div", "sidestep-upload", make("div", "sidestep-bar", fill), make("div", "sidestep-head", text, cancel));
  const note = make("div", "sidestep-drop-note");
  const left = make("details", "sidestep-left-out");
  const element = make("div", "sidestep-drop", ask, busy, note, left, folder, files);
  let stop = null; // AbortController of the upload

  note.setAttribute("role", "status");
  busy.hidden = left.hidden = true;
  cancel.title = t("Stop the upload. Songs that are there already stay.");
  chooseFolder.addEventListener("click", () => folder.click());
  chooseFiles.addEventListener("click", () => files.click());
  cancel.addEventListener("click", () => stop?.abort());
  for (const input of [folder, files]) {
    input.addEventListener("change", () => {
      const found = filesOfInput(input);
      input.value = ""; // the same choice again is a change, too
      void take(found);
    });
  }
  element.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    event.stopPropagation(); // ComfyUI opens files that are dropped on its canvas
    element.classList.add("sidestep-over");
  });
  element.addEventListener("dragleave", () => element.classList.remove("sidestep-over"));
  element.addEventListener("drop", async (event) => {
    event.preventDefault();
    event.stopPropagation();
    element.classList.remove("sidestep-over");
    await take(await filesOfDrop(event.dataTransfer));
  });

  async function take({ folder: name, chosen }) {
    if (stop || !chosen.length) return;
    stop = new AbortController();
    ask.hidden = true;
    busy.hidden = false;
    say("");
    show([]);
    try {
      await send(name || t("my songs"), chosen);
    } finally {
      stop = null;
      busy.hidden = true;
      ask.hidden = false;
    }
  }

  async function send(name, chosen) {
    fill.style.width = "0";
    text.textContent = t("Looking at the files ...");
    const { answer, wrong } = await planUpload(name, chosen.map(({ path, file }) => ({ path, size: file.size })));
    if (wrong) return say(wrong);
    const places = new Map(answer.files.filter((file) => file.name).map((file) => [file.path, file]));
    const total = chosen.reduce((sum, { path, file }) => sum + (places.has(path) ? file.size : 0), 0);
    const { done, failed } = await upload(chosen.filter(({ path }) => places.has(path)), places, {
      signal: stop.signal,
      progress: (bytes) => {
        fill.style.width = `${total ? (100 * bytes) / total : 100}%`;
        text.textContent = t("{sent} of {total} to {folder}",
          { sent: megabytes(bytes), total: megabytes(total), folder: `input/${answer.folder}` });
      },
    });
    show([...answer.files.filter(({ reason }) => reason), ...failed]);
    const folder = `input/${answer.folder}`;
    if (stop.signal.aborted) {
      say(plural(places.size, "Cancelled. {done} of {n} file is in {folder}.",
        "Cancelled. {done} of {n} files are in {folder}.", { done: done.length, folder }));
    } else if (!done.length) say(t("Nothing was uploaded."));
    else {
      say(plural(done.length, "{n} file uploaded to {folder}, {size}.", "{n} files uploaded to {folder}, {size}.",
        { folder, size: megabytes(total) }));
    }
    if (done.length && !stop.signal.aborted) await uploaded(answer.folder);
  }

  function say(sentence) {
    note.textContent = sentence;
  }

  function show(files) {
    left.hidden = !files.length;
    left.open = files.length > 0;
    left.replaceChildren(make("summary", "", leftOut(files.length)), make("div", "sidestep-reasons",
      ...files.map(({ path, reason }) => make("div", "", make("b", "", path), ` ${worded(reason)}`))));
  }

  return { element, cancel: () => stop?.abort(), uploading: () => Boolean(stop) };
}

function picker(options, label) {
  const input = make("input", "");
  Object.assign(input, { type: "file", hidden: true, ...options });
  input.setAttribute("aria-label", label);
  return input;
}

const megabytes = (bytes) => t("{size} MB", { size: fixed(bytes / MEGABYTE, bytes < 10 * MEGABYTE ? 1 : 0) });
