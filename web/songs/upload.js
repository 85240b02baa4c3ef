// Uploads songs through ComfyUI's own route, one file after the other, as large ones would hold up each other.

import { api } from "../../../scripts/api.js";
import { t } from "../words.js";

const ROUTE = "/upload/image"; // takes any file
const TOO_LARGE = 413;

/** Files of an <input type=file> as [{path, file}]; paths are relative to the chosen folder, named `folder`. */
export function filesOfInput({ files }) {
  const [top = ""] = files[0]?.webkitRelativePath.split("/").slice(0, -1) ?? [];
  const chosen = [...files].map((file) => ({ path: below(top, file.webkitRelativePath || file.name), file }));
  return { folder: top, chosen: chosen.filter(isVisible) };
}

/** Files of a drop, with those of dropped folders. */
export async function filesOfDrop({ items, files }) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean); // only valid before any await
  if (!entries.length) return { folder: "", chosen: [...files].map((file) => ({ path: file.name, file })) };
  const only = entries.length === 1 && entries[0].isDirectory ? entries[0].name : "";
  const found = (await Promise.all(entries.map((entry) => filesOfEntry(entry, "")))).flat();
  return { folder: only, chosen: found.map(({ path, file }) => ({ path: below(only, path), file })).filter(isVisible) };
}

/** Upload files to their places; `progress(bytes so far)`.  Answers {done: [path], failed: [{path, reason}]}. */
export async function upload(files, places, { signal, progress }) {
  const done = [];
  const failed = [];
  let before = 0;
  for (const { path, file } of files) {
    const place = places.get(path);
    if (!place || signal.aborted) continue;
    try {
      await send(file, place, signal, (bytes) => progress(before + bytes));
      done.push(path);
    } catch (error) {
      if (!signal.aborted) failed.push({ path, reason: error.message });
    }
    before += file.size;
    progress(before);
  }
  return { done, failed };
}

function send(file, { folder, name }, signal, progress) {
  const form = new FormData();
  form.append("image", file, name);
  form.append("type", "input");
  form.append("subfolder", folder);
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not report progress
    const stop = () => request.abort();
    signal.addEventListener("abort", stop, { once: true });
    request.upload.addEventListener("progress", ({ loaded }) => progress(Math.min(loaded, file.size)));
    request.addEventListener("load", () => (request.status === 200 ? resolve() : reject(new Error(refusal(request)))));
    request.addEventListener("error", () => reject(new Error(t("The connection broke. Choose it again."))));
    request.addEventListener("abort", () => reject(new Error(t("Cancelled."))));
    request.addEventListener("loadend", () => signal.removeEventListener("abort", stop));
    request.open("POST", api.apiURL(ROUTE));
    if (api.user) request.setRequestHeader("Comfy-User", api.user);
    request.send(form);
  });
}

const refusal = ({ status, statusText }) =>
  status === TOO_LARGE ? t("It is larger than this ComfyUI takes. Start it with a higher --max-upload-size.")
    : t("ComfyUI refused it: {reason}.", { reason: `${status} ${statusText}` });

const below = (top, path) => (top && path.startsWith(`${top}/`) ? path.slice(top.length + 1) : path);

/** Systems put hidden files into folders, such as .DS_Store. */
const isVisible = ({ path }) => !path.split("/").some((part) => part.startsWith("."));

async function filesOfEntry(entry, above) {
  const path = `${above}${entry.name}`;
  if (entry.isFile) return [{ path, file: await new Promise((resolve, reject) => entry.file(resolve, reject)) }];
  const reader = entry.createReader();
  const found = [];
  for (;;) { // it gives a hundred at a time
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return (await Promise.all(found.map((each) => filesOfEntry(each, `${path}/`)))).flat();
    found.push(...entries);
  }
}
