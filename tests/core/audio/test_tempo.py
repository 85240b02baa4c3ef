"""Tempo, beats and signature of music that is made at a known one; noise must have none."""

from __future__ import annotations

import sys

import pytest
import torch

from sidestep_core.audio.tempo import RATE, analyzed, rhythm
from sidestep_core.errors import MissingDependency
from tests.music import music, noise

TEMPO = 0.005
"""Relative error of a steady tempo."""
BEAT_SECONDS = 0.035
"""Largest error of a beat: three frames."""
SURE = 0.5
UNSURE = 0.1


@pytest.mark.parametrize("bpm", [72, 84, 97, 108, 120, 133, 153])
def test_tempo_is_found(bpm: float) -> None:
    found = rhythm(analyzed(music(bpm=bpm, bars=round(bpm / 10))))
    assert found is not None
    assert found.bpm == pytest.approx(bpm, rel=TEMPO)
    assert found.bpm * (1 + 2 * TEMPO) != pytest.approx(bpm, rel=TEMPO)
    assert found.confidence > SURE


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_has_no_tempo(seed: int) -> None:
    found = rhythm(analyzed(noise(25, seed)))
    assert found is None or (found.confidence < UNSURE and found.signature_confidence < UNSURE)


@pytest.mark.parametrize(("bpm", "beats", "parts", "signature"), [
    (84, 4, 2, "4/4"), (84, 3, 2, "3/4"), (120, 4, 2, "4/4"), (120, 3, 2, "3/4"), (140, 3, 2, "3/4"), (84, 2, 3, "6/8"),
])
def test_signature_and_downbeat_are_found(bpm: int, beats: int, parts: int, signature: str) -> None:
    upbeat = 2
    song = music(bpm=bpm, bars=72 // beats, beats=beats, parts=parts)
    found = rhythm(analyzed(song[:, round((beats - upbeat % beats) * 60 / bpm * 48_000) % song.shape[1] :]))
    assert found is not None
    assert found.signature == signature
    assert found.beats_per_bar == beats
    assert found.signature_confidence > (0.3 if signature == "6/8" else SURE)
    first = found.beats[found.downbeat] / (60 / bpm) - upbeat
    assert first % beats == pytest.approx(0, abs=0.1) or first % beats == pytest.approx(beats, abs=0.1)


def test_beats_are_in_place() -> None:
    found = rhythm(analyzed(music(bpm=100, bars=10)))
    assert found is not None
    offsets = [(time + 0.3) % 0.6 - 0.3 for time in found.beats]
    assert max(abs(offset) for offset in offsets) < BEAT_SECONDS
    assert max(abs((time + 0.35) % 0.6 - 0.3) for time in found.beats) > BEAT_SECONDS


def test_two_tempos_lower_confidence() -> None:
    one = torch.cat([music(bpm=84, bars=10), music(bpm=131, bars=16)], dim=1)
    found, steady = rhythm(analyzed(one)), rhythm(analyzed(music(bpm=84, bars=20)))
    assert found is not None
    assert steady is not None
    assert found.confidence < SURE < steady.confidence


def test_silence_has_no_beats() -> None:
    assert rhythm(torch.zeros(20 * RATE)) is None
    assert rhythm(analyzed(music(bars=1))) is None


def test_without_librosa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(MissingDependency, match="pip install --upgrade librosa"):
        rhythm(torch.zeros(20 * RATE))
