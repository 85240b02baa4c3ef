"""Each thing that is wrong with a song has its sentence, and a good song has none."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sidestep_core.audio.container import Facts
from sidestep_core.audio.levels import Levels
from sidestep_core.songs.warnings import warnings

FACTS = Facts(seconds=180, guessed=False, sample_rate=44_100, channels=2, codec="flac", bit_rate=900_000)
LEVELS = Levels(peak_db=-0.5, clipped=0.0, silent=0.01, silence=(0.0, 1.0), mono=False)


def test_a_good_song_has_no_warning() -> None:
    assert warnings(FACTS, LEVELS, -14, 180, 180) == ()
    assert warnings(replace(FACTS, codec="mp3", bit_rate=128_000), LEVELS, -math.inf, 180, 179.5) == ()


@pytest.mark.parametrize(("facts", "measured", "loudness", "seconds", "expected"), [
    (FACTS, replace(LEVELS, clipped=0.0123), -14, 180,
     "It is clipped: 1.23% of its samples are cut off at full scale."),
    (FACTS, LEVELS, -40.2, 180, "It is very quiet: -40 LUFS. Normalise it."),
    (FACTS, replace(LEVELS, silence=(61.0, 73.0)), -14, 180, "It is silent for 12 s, from 1:01 to 1:13. Cut that out."),
    (replace(FACTS, sample_rate=22_050), LEVELS, -14, 180,
     "Its sample rate is 22050 Hz: there is nothing above 11.025 kHz, so the training learns that there is not."),
    (replace(FACTS, codec="mp3", bit_rate=64_000), LEVELS, -14, 180,
     "It is mp3 at only 64 kbit/s, which is audible and is learned. Get a better copy."),
    (FACTS, replace(LEVELS, mono=True), -14, 180, "It is mono, so the training learns no width."),
    (replace(FACTS, channels=6), LEVELS, -14, 180, "It has 6 channels, which are mixed down to two."),
    (FACTS, LEVELS, -14, 4.25,
     "It is only 4.2 s long, which says little about tempo and key, and about a song."),
    (FACTS, LEVELS, -14, 28_800,
     "It is 8:00:00 long; only the first 10:00 were analyzed. Split it into sections."),
])
def test_each_warning(facts: Facts, measured: Levels, loudness: float, seconds: float, expected: str) -> None:
    assert warnings(facts, measured, loudness, seconds, min(seconds, 600)) == (expected,)


def test_opus_needs_less() -> None:
    assert warnings(replace(FACTS, codec="opus", bit_rate=80_000), LEVELS, -14, 180, 180) == ()
    assert len(warnings(replace(FACTS, codec="opus", bit_rate=48_000), LEVELS, -14, 180, 180)) == 1
