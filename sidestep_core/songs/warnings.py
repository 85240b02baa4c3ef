"""Warnings about the sound of a song, in whole sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..audio.container import Facts
from ..audio.levels import Levels
from .report import clock

SHORT_SECONDS = 10.0
QUIET_LUFS = -30.0
LONG_SILENCE = 5.0
MUCH_CLIPPING = 1e-4
LOW_RATE = 44_100
LOW_BIT_RATE = 96_000
_LOSSY = frozenset("aac ac3 eac3 mp2 mp3 opus speex vorbis wmav1 wmav2".split())
# The younger codecs do with less what the others need 96 kbit/s for.
_LOW_BIT_RATES = {"opus": 64_000, "vorbis": 80_000}


def warnings(facts: Facts, measured: Levels, loudness: float, seconds: float,
             analyzed: float) -> tuple[str, ...]:
    """Warn of bad sound, the most important first; `analyzed` of the `seconds` were analyzed."""
    return (*_level_warnings(measured, loudness), *_file_warnings(facts, measured),
            *_length_warnings(seconds, analyzed))


def _level_warnings(measured: Levels, loudness: float) -> Iterator[str]:
    if measured.clipped > MUCH_CLIPPING:
        yield f"It is clipped: {measured.clipped:.2%} of its samples are cut off at full scale."
    if math.isfinite(loudness) and loudness < QUIET_LUFS:
        yield f"It is very quiet: {loudness:.0f} LUFS. Normalise it."
    start, end = measured.silence
    if end - start >= LONG_SILENCE:
        yield f"It is silent for {end - start:.0f} s, from {clock(start)} to {clock(end)}. Cut that out."


def _file_warnings(facts: Facts, measured: Levels) -> Iterator[str]:
    if facts.sample_rate < LOW_RATE:
        yield (f"Its sample rate is {facts.sample_rate} Hz: there is nothing above {facts.sample_rate / 2000:g} kHz, "
               "so the training learns that there is not.")
    if facts.codec in _LOSSY and 0 < facts.bit_rate < _LOW_BIT_RATES.get(facts.codec, LOW_BIT_RATE):
        yield (f"It is {facts.codec} at only {facts.bit_rate / 1000:.0f} kbit/s, which is audible and is learned. "
               "Get a better copy.")
    if measured.mono:
        yield "It is mono, so the training learns no width."
    if facts.channels > 2:
        yield f"It has {facts.channels} channels, which are mixed down to two."


def _length_warnings(seconds: float, analyzed: float) -> Iterator[str]:
    if seconds < SHORT_SECONDS:
        yield f"It is only {seconds:.1f} s long, which says little about tempo and key, and about a song."
    if seconds > analyzed + 1:
        yield (f"It is {clock(seconds)} long; only the first {clock(analyzed)} were analyzed. "
               "Split it into sections.")
