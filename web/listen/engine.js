// Plays all takes at once, in step to the sample, and lets one be heard: switching is a fade of a few milliseconds.

import { t } from "../words.js";

const FADE = 0.008; // seconds
const RATE = 48000; // of the takes, so that nothing is resampled
const MAX_BYTES = 900e6; // of decoded audio
const BYTES_PER_SECOND = RATE * 2 * 4;

/**
 * {load(addresses), play(), pause(), seek(seconds), choose(index), setGains(amplitudes), setLoop([start, end] or null),
 * release(), buffers(), state()}; `changed()` is called whenever the state is another.
 */
export function createEngine(changed) {
  let context = null;
  let buffers = [];
  let levels = []; // amplitude of each take when it is heard
  let voices = null; // [{source, gain}] while playing
  let startedAt = 0; // time of the context at which `offset` was heard
  let offset = 0;
  let chosen = 0;
  let loop = null;
  let request = 0;

  const duration = () => Math.max(0, ...buffers.map((buffer) => buffer.duration));

  function position() {
    if (!voices) return offset;
    const time = offset + Math.max(0, context.currentTime - startedAt);
    if (!loop || time < loop[1] || offset >= loop[1]) return Math.min(time, duration());
    return loop[0] + ((time - loop[0]) % (loop[1] - loop[0]));
  }

  async function load(addresses) {
    const own = (request += 1);
    halt();
    buffers = [];
    offset = chosen = 0;
    loop = null;
    // Decoding needs no permission to play, which a browser gives with the first press.
    const decoder = new OfflineAudioContext(2, 1, RATE);
    const read = [];
    for (const address of addresses) {
      const response = await fetch(address);
      if (!response.ok) throw new Error((await response.text()) || t("This take is gone."));
      const buffer = await decoder.decodeAudioData(await response.arrayBuffer());
      if (own !== request) return false;
      read.push(buffer);
      const bytes = read.reduce((sum, { duration: seconds }) => sum + seconds * BYTES_PER_SECOND, 0);
      if (bytes > MAX_BYTES) {
        throw new Error(t("These takes are too long to be held in memory at once. Compare fewer, or shorter ones."));
      }
    }
    buffers = read;
    levels = buffers.map(() => 1);
    changed();
    return true;
  }

  function start() {
    startedAt = context.currentTime + 0.02;
    voices = buffers.map((buffer, index) => {
      const source = context.createBufferSource();
      const gain = context.createGain();
      source.buffer = buffer;
      if (loop) [source.loop, source.loopStart, source.loopEnd] = [true, ...loop];
      gain.gain.value = index === chosen ? levels[index] : 0;
      source.connect(gain).connect(context.destination);
      source.start(startedAt, Math.min(offset, buffer.duration));
      return { source, gain };
    });
    const longest = buffers.findIndex((buffer) => buffer.duration === duration());
    voices[longest].source.onended = () => {
      halt();
      offset = 0;
      changed();
    };
  }

  function halt() {
    if (!voices) return;
    offset = position();
    for (const { source, gain } of voices) {
      source.onended = null;
      source.stop();
      gain.disconnect();
    }
    voices = null;
  }

  async function play() {
    if (voices || !buffers.length) return;
    context ??= new AudioContext({ sampleRate: RATE });
    await context.resume();
    if (!voices && buffers.length) start();
    changed();
  }

  function pause() {
    halt();
    changed();
  }

  /** Go on from here, with whatever has changed. */
  function restart(seconds) {
    const playing = Boolean(voices);
    halt();
    offset = Math.min(Math.max(0, seconds), duration());
    if (playing) start();
    changed();
  }

  function fade() {
    voices?.forEach(({ gain }, index) => {
      const now = context.currentTime;
      gain.gain.cancelScheduledValues(now);
      gain.gain.setValueAtTime(gain.gain.value, now);
      gain.gain.linearRampToValueAtTime(index === chosen ? levels[index] : 0, now + FADE);
    });
  }

  function choose(index) {
    if (index === chosen || index < 0 || index >= buffers.length) return;
    chosen = index;
    fade();
    changed();
  }

  function setGains(amplitudes) {
    levels = amplitudes;
    fade();
  }

  function setLoop(range) {
    loop = range && range[1] - range[0] >= 0.1 ? range : null;
    const time = position();
    restart(loop && (time < loop[0] || time >= loop[1]) ? loop[0] : time);
  }

  /** Let the audio go: a minute of nine takes is 200 MB. */
  function release() {
    request += 1;
    halt();
    buffers = [];
    context?.close();
    context = null;
    offset = 0;
  }

  const state = () => ({
    playing: Boolean(voices), time: position(), duration: duration(), chosen, loop, ready: buffers.length > 0,
    levels: voices?.map(({ gain }) => gain.gain.value) ?? [],
  });
  return { load, play, pause, seek: restart, choose, setGains, setLoop, release, buffers: () => buffers, state };
}
