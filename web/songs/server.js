// Everything that the page asks about songs: one function per route.  Each answers {answer}, or {wrong}: a sentence.

import { api } from "../../../scripts/api.js";
import { t } from "../words.js";

export const hint = () => t("Run the workflow: the songs are shown here.");

const path = (key, index) => `/sidestep/songs/${encodeURIComponent(key)}${index === undefined ? "" : `/${index}`}`;

async function ask(route, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  try {
    const response = await api.fetchApi(route, body ? post : undefined);
    if (response.status === 204) return { wrong: hint() };
    return response.ok ? { answer: await response.json() } : { wrong: await response.text() };
  } catch {
    return { wrong: t("ComfyUI does not answer.") };
  }
}

/** What a song table needs. */
export const songServer = {
  rows: (key, first, count, { only = "all", text = "" } = {}) =>
    ask(`${path(key)}?first=${first}&count=${count}&only=${only}&text=${encodeURIComponent(text)}`),
  peaks: (key, index) => ask(`${path(key, index)}/peaks`),
  audio: (key, index, asFlac) => api.apiURL(`${path(key, index)}/audio${asFlac ? "?as=flac" : ""}`),
  save: (key, index, fields) => ask(`${path(key, index)}/metadata`, fields),
  saveAll: (key) => ask(`${path(key)}/metadata`, {}),
  bulk: (key, edit) => ask(`${path(key)}/bulk`, edit),
};

/** {input: [{name, songs}], shown: [{preview, name, songs}], largest_upload}: the folders with songs. */
export const listFolders = () => ask("/sidestep/song_folders");

/** Read the songs of a folder of the input folder: {preview, songs, message}. */
export const scanFolder = (folder) => ask("/sidestep/song_folders/scan", { folder });

/** {folder, files: [{path, folder, name, reason}]}: places for files [{path, size}] in a new folder of this name. */
export const planUpload = (name, files) => ask("/sidestep/song_folders/plan", { name, files });

/** {models}: the models to train for, best first. */
export const listModels = () => ask("/sidestep/first_training");

/** The proposed training of the songs of an input folder: {folder, model, name, preset}. */
export const proposeTraining = (wish) => ask("/sidestep/first_training", wish);
