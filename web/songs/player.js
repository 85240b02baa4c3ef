// One audio player for all rows of a table.  Nothing is loaded until a song is played.

import { make } from "../dom.js";
import { t } from "../words.js";
import { played } from "./rows.js";

/**
 * {element, toggle(row), seek(row, share), stop(), pause(), state(row)}; `address(index, asFlac)` is the URL of a song,
 * `changed()` is called to redraw, `failed(text)` if a song cannot be played.
 */
export function createPlayer({ address, changed, failed }) {
  const audio = make("audio", "");
  audio.preload = "none";
  let current = null; // row in the player
  let asFlac = false;

  /** Start of the song in the played file; the original file holds the whole song, a FLAC only the section. */
  const start = () => (asFlac ? 0 : current.start);

  function load(row, flac, share) {
    current = row;
    asFlac = flac;
    const from = start() + share * row.seconds;
    const end = row.section && !flac ? `,${row.start + row.seconds}` : "";
    audio.src = `${address(row.index, flac)}#t=${from}${end}`;
    // Rejected if another press comes first, and for songs that cannot be played (see the error event).
    audio.play().catch(() => {});
  }

  function toggle(row) {
    if (row.index !== current?.index) return load(row, !row.as_it_is, 0);
    if (audio.paused) audio.play().catch(() => {});
    else audio.pause();
  }

  function seek(row, share) {
    if (row.index !== current?.index) return load(row, !row.as_it_is, share);
    audio.currentTime = start() + share * row.seconds;
    if (audio.paused) audio.play().catch(() => {});
  }

  function stop() {
    current = null;
    audio.removeAttribute("src");
    audio.load();
  }

  /** {playing, share} of a row. */
  function state(row) {
    if (row.index !== current?.index) return { playing: false, share: 0 };
    return { playing: !audio.paused, share: played(audio.currentTime, start(), row.seconds) };
  }

  for (const event of ["play", "pause", "ended", "timeupdate", "emptied"]) audio.addEventListener(event, changed);
  audio.addEventListener("error", () => {
    if (!current) return;
    if (!asFlac) return load(current, true, 0); // this browser does not know the format
    failed(t("{name} cannot be played.", { name: current.name }));
    stop();
  });

  return { element: audio, toggle, seek, stop, state, pause: () => audio.pause() };
}
