// Pure functions: rows from the server -> text and shapes in the table.

import { plural, t } from "../words.js";

export const PAGE = 20; // rows at a time, so that ten thousand songs are as quick as ten

/** Editable fields, with label and number of lines. */
export const fieldsOfSong = () => [
  { name: "caption", label: t("Caption"), lines: 3 },
  { name: "lyrics", label: t("Lyrics"), lines: 6 },
  { name: "genre", label: t("Genre") },
  { name: "bpm", label: t("BPM") },
  { name: "key", label: t("Key") },
  { name: "signature", label: t("Time signature") },
  { name: "language", label: t("Language") },
];

/** 192.4 -> "3:12"; hours only if there are any. */
export function clock(seconds) {
  if (!Number.isFinite(seconds)) return "-";
  const whole = Math.max(0, Math.floor(seconds));
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const [hours, minutes, rest] = parts.map((part) => String(part).padStart(2, "0"));
  return parts[0] ? `${parts[0]}:${minutes}:${rest}` : `${parts[1]}:${rest}`;
}

/** SVG path of a waveform, one stroke per peak, in a box one unit wide per peak and 100 high. */
export const wave = (peaks) =>
  peaks.map((height, index) => `M${index + 0.5} ${50 - Math.max(height, 2) / 2}v${Math.max(height, 2)}`).join("");

/** "1 song", "1,200 songs" */
export const songsOf = (n) => plural(n, "{n} song", "{n} songs");

export const leftOut = (n) => plural(n, "{n} file left out", "{n} files left out");

/** "1 - 20 of 10,000"; "3 of 40 songs" where a filter leaves so few. */
export function range({ first, rows, total, all = total }) {
  if (total > PAGE) return t("{first} - {last} of {total}", { first: first + 1, last: first + rows.length, total });
  return total === all ? songsOf(total) : plural(all, "{found} of {n} song", "{found} of {n} songs", { found: total });
}

/** Problems of a row, as sentences. */
export function problems(row) {
  const missing = row.caption || row.genre ? [] : [t("It has no caption.")];
  return [...missing, ...row.warnings];
}

/** Text of a cell, and its tooltip. */
export function cell(row, name) {
  const estimate = row.estimated[name];
  return { text: row[name] || "-", tooltip: estimate ? t("Estimated: {values}", { values: estimate }) : "" };
}

/** Text of the caption's cell: the caption, or what replaces it. */
export const captionText = (row) => row.caption || (row.genre ? t("Genre: {genre}", { genre: row.genre }) : t("No caption"));

/** Position in a song from 0 to 1; the song begins at `start` of the played file. */
export const played = (time, start, seconds) => Math.min(1, Math.max(0, (time - start) / (seconds || 1)));
