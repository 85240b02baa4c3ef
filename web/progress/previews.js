// The generated previews: a button each, newest first.  They share one player that keeps its place, so that going from
// one to another compares the same moment of the same piece.

import { make, makeSvg } from "../dom.js";
import { t } from "../words.js";
import { previewName } from "./progress.js";

const PLAY = "M3 1.5v9l7.5 -4.5z";
const PAUSE = "M3 1.5v9M8.5 1.5v9";
const FAILED = "M2.5 2.5L9.5 9.5M9.5 2.5L2.5 9.5";

/** {element, show(state), height() in pixels}; `address` makes the address of a preview of a state's node and run. */
export function createPreviews(address, heights) {
  const row = make("div", "sidestep-previews");
  const failure = make("div", "sidestep-failure");
  const audio = make("audio", "");
  const element = make("div", "sidestep-listen", row, failure, audio);
  let buttons = new Map(); // by step
  let shown = "";
  let current = null; // step of the preview in the player

  function show(state) {
    const { previews } = state;
    const key = JSON.stringify([state.node_id, state.run, previews]);
    if (key === shown) return;
    if (JSON.parse(shown || "[]")[1] !== state.run) stop();
    shown = key;
    buttons = new Map(previews.toReversed().map((preview) => [preview.step, button(preview, state)]));
    row.replaceChildren(...buttons.values());
    const { step, message } = previews.at(-1) ?? {};
    failure.textContent = failure.title = message
      ? t("No preview ({step}): {reason}", { step: previewName(step), reason: message }) : "";
    element.hidden = !previews.length;
    mark();
  }

  function button({ step, message }, state) {
    const [icon, path] = makeSvg("sidestep-icon", "0 0 12 12", "");
    const name = previewName(step);
    const made = make("button", "sidestep-preview", icon, name);
    made.type = "button";
    made.disabled = Boolean(message);
    made.title = message || (step ? t("Generated with the adapter after step {step}", { step })
      : t("Generated without the adapter"));
    path.setAttribute("d", message ? FAILED : PLAY);
    made.addEventListener("click", () => toggle(step, address(state, step)));
    return made;
  }

  function toggle(step, url) {
    if (step === current && !audio.paused) return audio.pause();
    if (step !== current) {
      const time = audio.ended || !audio.currentSrc ? 0 : audio.currentTime;
      current = step;
      audio.src = `${url}#t=${time}`;
    }
    // Refused when another press comes first, and where the audio is gone, which onerror shows.
    audio.play().catch(() => {});
  }

  function stop() {
    current = null;
    audio.removeAttribute("src");
    audio.load();
  }

  function mark() {
    for (const [step, made] of buttons) {
      const playing = step === current && !audio.paused;
      made.setAttribute("aria-pressed", String(playing));
      if (!made.disabled) made.querySelector("path").setAttribute("d", playing ? PAUSE : PLAY);
      const played = step === current && audio.duration ? audio.currentTime / audio.duration : 0;
      made.style.setProperty("--sidestep-played", `${100 * played}%`);
    }
  }

  for (const event of ["play", "pause", "ended", "timeupdate", "emptied"]) audio.addEventListener(event, mark);
  audio.addEventListener("error", () => {
    if (current === null) return;
    failure.textContent = failure.title = t("The preview ({step}) is gone.", { step: previewName(current) });
    stop();
  });
  // Where there are more than fit, the wheel goes through them instead of zooming the canvas.
  row.addEventListener("wheel", (event) => {
    if (row.scrollWidth <= row.clientWidth) return;
    event.preventDefault();
    event.stopPropagation();
    row.scrollLeft += event.deltaX + event.deltaY;
  });

  const height = () => (element.hidden ? 0 : heights.row + (failure.textContent ? heights.failure : 0));
  return { element, show, height };
}
