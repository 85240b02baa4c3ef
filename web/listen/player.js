// Takes of one prompt and seed: one transport for all, a row each.  Switching keeps the place; number keys do it too.

import { make, makeSvg } from "../dom.js";
import { clock, wave } from "../songs/rows.js";
import { fixed, t } from "../words.js";
import { createBlindTest } from "./blind.js";
import { createEngine } from "./engine.js";
import { amplitude, bars, BARS, gains, gainText, takeName } from "./levels.js";

const PLAY = "M3 1.5v9l7.5 -4.5z";
const PAUSE = "M3 1.5v9M8.5 1.5v9";
const SKIP = 5; // seconds of the arrow keys

/**
 * {element, show(session), isLoaded(), stop(), release()}.  `actions`: {vote(take), keep(take), use(take)}, takes by number from 1, each
 * a promise; vote and keep give the session as it is then.
 */
export function createPlayer(actions) {
  const engine = createEngine(update);
  const [icon, iconPath] = makeSvg("sidestep-icon", "0 0 12 12", "");
  const toggle = button("", () => (engine.state().playing ? engine.pause() : engine.play()), "sidestep-listen-play");
  const clockText = make("span", "sidestep-listen-clock");
  const seek = range(t("Position"));
  const loop = button(t("Loop"), toggleLoop, "sidestep-button");
  const loudness = checkbox(t("Same loudness"), setLevels);
  const list = make("div", "sidestep-listen-rows");
  const status = make("p", "sidestep-listen-status");
  const keeping = button(t("Keep this one"), () => act(keepChosen), "sidestep-button");
  const using = button(t("Use it"), () => act(useChosen), "sidestep-button");
  const blind = createBlindTest({ begin: () => show(session), vote: (take) => act(() => voteFor(take)) });
  const transport = make("div", "sidestep-listen-transport", toggle, seek, clockText, loop);
  const options = make("div", "sidestep-listen-options", loudness.element, blind.button);
  const foot = make("div", "sidestep-listen-options", keeping, using);
  const element = make("div", "sidestep-listen-player", transport, list, options, foot, status);
  let session = null;
  let loaded = ""; // addresses in the engine
  let rows = []; // {take: index, element, wave, play, gain} in the order shown
  let levels = [];
  let loopStart = null;
  let frame = 0;

  toggle.append(icon);
  keeping.title = t("Mark this take as the one to keep; a checkpoint's adapter is copied into the LoRA folder");
  using.title = t("Add Load Adapter and Apply Adapter to the workflow, with this file and strength");
  loop.title = t("Press at the start of a passage, and again at its end");
  element.title = "";
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", t("Takes"));
  element.setAttribute("aria-description",
    t("Keys: 1 to 9 choose a take, Space plays and pauses, the left and right arrows skip 5 seconds."));
  status.setAttribute("role", "status");
  list.setAttribute("role", "group");
  list.setAttribute("aria-label", t("Choose the take that is heard"));
  seek.addEventListener("input", () => engine.seek(Number(seek.value)));
  element.addEventListener("keydown", onKey);

  async function show(shown) {
    session = shown;
    const addresses = session.takes.map(({ address }) => address).join(" ");
    rows = blind.order(session.takes.length).map((take, place) => createRow(take, place));
    list.replaceChildren(...rows.map((row) => row.element));
    element.hidden = !session.takes.length;
    blind.button.hidden = session.takes.length < 2;
    if (addresses !== loaded) {
      loaded = addresses;
      loopStart = null;
      status.textContent = t("Loading...");
      update();
      try {
        if (!(await engine.load(session.takes.map(({ address }) => address)))) return;
        status.textContent = "";
      } catch (error) {
        loaded = "";
        status.textContent = error.message;
        return;
      }
    }
    setLevels();
    update();
  }

  function createRow(take, place) {
    const names = blind.names(session, take, place);
    const [svg, path, played] = makeSvg("sidestep-listen-wave", `0 0 ${BARS} 100`, "sidestep-peaks", "sidestep-played-peaks");
    const gain = make("span", "sidestep-listen-gain");
    const choose = button("", () => engine.choose(take), "sidestep-listen-take");
    choose.append(make("kbd", "", String(place + 1)), make("span", "sidestep-listen-name", names.text), svg, gain);
    choose.title = names.title;
    choose.setAttribute("aria-label", names.label);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    svg.addEventListener("click", (event) => {
      const box = svg.getBoundingClientRect();
      engine.seek(((event.clientX - box.left) / box.width) * engine.state().duration);
    });
    const made = make("div", "sidestep-listen-row", choose, ...blind.voting(take, place));
    return { take, element: made, choose, path, played, gain };
  }

  function drawWaves() {
    if (blind.hides()) return; // shapes would give them away
    const channels = engine.buffers().map((buffer) => buffer.getChannelData(0));
    if (!channels.length) return;
    const heights = channels.map((channel, take) => bars(channel, amplitude(levels[take])));
    const highest = Math.max(...heights.flat());
    for (const { take, path, played } of rows) {
      const shape = wave(heights[take].map((height) => (100 * height) / (highest || 1)));
      path.setAttribute("d", shape);
      played.setAttribute("d", shape);
    }
  }

  function setLevels() {
    if (!session) return;
    levels = loudness.checked() ? gains(session.takes.map(({ lufs }) => lufs)) : session.takes.map(() => 0);
    engine.setGains(levels.map(amplitude));
    for (const row of rows) {
      const { lufs } = session.takes[row.take];
      row.gain.textContent = blind.hides() ? "" : gainText(levels[row.take]);
      row.gain.title = blind.hides() ? "" : lufs === null ? t("No loudness could be measured")
        : t("Measured: {level} LUFS", { level: fixed(lufs, 1) });
    }
    drawWaves();
  }

  /** Show where the engine is; while it plays, in every frame. */
  function update() {
    const { playing, time, duration, chosen, loop: looped, ready } = engine.state();
    toggle.disabled = seek.disabled = loop.disabled = !ready;
    toggle.title = playing ? t("Pause") : t("Play");
    toggle.setAttribute("aria-label", toggle.title);
    iconPath.setAttribute("d", playing ? PAUSE : PLAY);
    clockText.textContent = ready ? `${clock(time)} / ${clock(duration)}` : "";
    seek.max = duration || 1;
    seek.value = time;
    seek.setAttribute("aria-valuetext", clockText.textContent);
    loop.textContent = loopStart !== null ? t("Loop to here") : looped ? t("End loop") : t("Loop");
    loop.setAttribute("aria-pressed", String(Boolean(looped)));
    element.style.setProperty("--sidestep-played", `${duration ? (100 * time) / duration : 0}%`);
    for (const row of rows) row.choose.setAttribute("aria-pressed", String(row.take === chosen));
    const take = session?.takes[chosen];
    const open = ready && session.kind === "comparison" && !blind.hides();
    keeping.hidden = using.hidden = !open;
    if (open) {
      keeping.disabled = session.kept === chosen + 1;
      keeping.textContent = keeping.disabled ? t("Kept") : t("Keep this one");
      using.disabled = !take.adapter_file;
    }
    cancelAnimationFrame(frame);
    if (playing) frame = requestAnimationFrame(update);
  }

  /** First press: where it begins.  Second: where it ends.  Third: none. */
  function toggleLoop() {
    const { time, loop: looped } = engine.state();
    if (looped) engine.setLoop(null);
    else if (loopStart === null) loopStart = time;
    else {
      const [start, end] = [loopStart, time].sort((a, b) => a - b);
      loopStart = null;
      engine.setLoop([start, end]);
    }
    update();
  }

  function onKey(event) {
    event.stopPropagation(); // keys must not trigger ComfyUI's shortcuts
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const row = rows[Number(event.key) - 1];
    const own = event.target.closest("input[type=checkbox], .sidestep-listen-options");
    if (/^[1-9]$/.test(event.key) && row) engine.choose(row.take);
    else if (event.key === " " && !own) toggle.click();
    else if (event.key === "ArrowLeft") engine.seek(engine.state().time - SKIP);
    else if (event.key === "ArrowRight") engine.seek(engine.state().time + SKIP);
    else return;
    event.preventDefault();
  }

  async function act(action) {
    try {
      status.textContent = (await action()) ?? "";
    } catch (error) {
      status.textContent = error.message;
    }
  }

  async function voteFor(take) {
    const changed = await actions.vote(take + 1);
    blind.reveal(take);
    await show(changed);
    engine.choose(take);
    return t("You chose {name}.", { name: takeName(session.takes[take]) });
  }

  async function keepChosen() {
    const { chosen } = engine.state();
    const fresh = await actions.keep(chosen + 1);
    await show(fresh);
    const { adapter_file: file } = session.takes[chosen];
    return file ? t("Kept: {name}, in your LoRA list as {file}.", { name: takeName(session.takes[chosen]), file })
      : t("Kept: the base, without an adapter.");
  }

  const useChosen = () => actions.use(engine.state().chosen + 1);

  function stop() {
    if (engine.state().playing) engine.pause();
  }

  function release() {
    cancelAnimationFrame(frame);
    engine.release();
    loaded = "";
  }

  element.engine = engine; // for tests
  return { element, show: (shown) => (blind.reset(), show(shown)), stop, release, isLoaded: () => loaded !== "" };
}

function button(text, act, className) {
  const made = make("button", className, text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

function range(name) {
  const made = make("input", "sidestep-listen-seek");
  Object.assign(made, { type: "range", min: 0, max: 1, step: 0.01, value: 0, title: name });
  made.setAttribute("aria-label", name);
  return made;
}

function checkbox(text, changed) {
  const box = make("input", "");
  const element = make("label", "sidestep-listen-check", box, text);
  Object.assign(box, { type: "checkbox", checked: true });
  element.title = t("Turns louder takes down to the quietest, by their measured loudness: louder always seems better");
  box.addEventListener("change", changed);
  return { element, checked: () => box.checked };
}
