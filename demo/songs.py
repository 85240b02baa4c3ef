"""Three short synthesised songs, each in its own audio format and sidecar layout.

Chords, bass and drums at the stated tempo: enough music to hear what an adapter learned.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 48_000
Wave = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class _Score:
    """Chords as semitones above `root` (a MIDI note), one per bar."""

    bpm: float
    beats_per_bar: int
    root: int
    chords: tuple[tuple[int, ...], ...]
    brightness: int
    """Number of partials of the chord sound."""
    seed: int


_NEON = _Score(bpm=120, beats_per_bar=4, root=45, brightness=9, seed=1,
               chords=((0, 3, 7), (-4, 0, 3), (3, 7, 10)))
_RAIN = _Score(bpm=90, beats_per_bar=4, root=48, brightness=3, seed=2,
               chords=((0, 4, 7, 11), (-3, 0, 4, 7), (5, 9, 12)))
_WALTZ = _Score(bpm=100, beats_per_bar=3, root=43, brightness=5, seed=3,
                chords=((0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7), (-3, 0, 4), (7, 11, 14)))


def write_demo_songs(folder: Path) -> None:
    """Write 6.0 s of WAV, 8.0 s of FLAC and 10.8 s of Opus with sidecars; existing files are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_audio(folder / "neon drive.wav", _NEON, "wav", "pcm_s16le")
    _write_text(folder / "neon drive.txt", (
        "# Side-Step's own dialect: key: value lines, lyrics last\n"
        "caption: driving synthwave, bright saw chords, four on the floor drums\n"
        "genre: synthwave\nbpm: 120\nkey: A minor\nsignature: 4/4\nlanguage: en\n"
        "lyrics:\n[Verse]\nNeon on the water\nEngines in the night\n\n[Chorus]\nDrive until the morning\n"))
    _write_audio(folder / "slow rain.flac", _RAIN, "flac", "flac")
    _write_text(folder / "slow rain.caption.txt", "calm lo-fi, soft electric piano, warm bass, slow drums\n")
    _write_text(folder / "slow rain.lyrics.txt", "[Instrumental]\n")
    _write_audio(folder / "paper waltz.ogg", _WALTZ, "ogg", "libopus")
    _write_text(folder / "paper waltz.json", json.dumps({
        "caption": "playful waltz, music box, light percussion", "lyrics": "[Verse]\nPaper boats are turning",
        "bpm": 100, "keyscale": "G major", "timesignature": "3/4", "language": "en", "genre": "waltz"}, indent=2))


def _render(score: _Score) -> Wave:
    """Render stereo audio [2, time] with peak 0.8."""
    beat = 60 / score.bpm
    length = round(len(score.chords) * score.beats_per_bar * beat * RATE)
    noise = np.random.default_rng(score.seed)
    song = np.zeros((2, length))
    for number in range(len(score.chords) * score.beats_per_bar):
        bar, position = divmod(number, score.beats_per_bar)
        start, chord = number * beat, score.chords[bar]
        if position == 0:
            for voice, step in enumerate(chord):
                pan = 0.3 + 0.4 * voice / (len(chord) - 1)
                note = _note(score.root + 12 + step, score.beats_per_bar * beat, score.brightness, decay=1.5)
                _add(song, start, 0.25 * note, pan)
        _add(song, start, 0.5 * _note(score.root - 12 + chord[0], beat, 2, decay=4), 0.5)
        _add(song, start, _kick() if position == 0 else 0.3 * _hiss(noise, decay=25), 0.5)
        _add(song, start + beat / 2, 0.12 * _hiss(noise, decay=60), 0.65)
    song *= 0.8 / np.abs(song).max()
    return song


def _note(midi: int, seconds: float, partials: int, *, decay: float) -> Wave:
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = 440 * 2 ** ((midi - 69) / 12)
    wave: Wave = np.exp(-decay * time) * np.minimum(1, time / 0.01) * np.minimum(1, (seconds - time) / 0.02)
    wave *= np.sum([np.sin(2 * np.pi * pitch * number * time) / number for number in range(1, partials + 1)], axis=0)
    return wave


def _kick() -> Wave:
    time = np.arange(round(0.25 * RATE)) / RATE
    wave: Wave = np.sin(2 * np.pi * (50 * time + 6 * (1 - np.exp(-30 * time)))) * np.exp(-14 * time)
    return wave


def _hiss(noise: np.random.Generator, *, decay: float) -> Wave:
    time = np.arange(round(0.12 * RATE)) / RATE
    return noise.uniform(-1, 1, time.size) * np.exp(-decay * time)


def _add(song: Wave, start: float, wave: Wave, pan: float) -> None:
    """Mix in place; sound beyond the end is cut."""
    first = round(start * RATE)
    part = wave[: song.shape[1] - first]
    song[:, first : first + part.size] += np.array([[np.cos(pan * np.pi / 2)], [np.sin(pan * np.pi / 2)]]) * part


def _write_audio(path: Path, score: _Score, container: str, codec: str) -> None:
    import av

    if path.exists():
        return
    samples = np.round(_render(score) * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T).reshape(1, -1), format="s16", layout="stereo")
    frame.sample_rate = RATE
    frame.pts = 0
    temporary = path.with_name(f".{path.name}.tmp")
    # Without "bitexact" an Ogg file holds a random number, so that two runs differ.
    with av.open(temporary, "w", format=container, options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream(codec, rate=RATE, layout="stereo", format="s16")
        assert isinstance(stream, av.AudioStream)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    temporary.replace(path)


def _write_text(path: Path, text: str) -> None:
    if not path.exists():
        path.write_text(text, encoding="utf-8", newline="\n")
