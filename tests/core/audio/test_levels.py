"""Clipping, silence and mono, in music to which each was done."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from sidestep_core.audio.decode import decode
from sidestep_core.audio.levels import levels
from tests.music import RATE, music, noise
from tests.tones import encode, tone


def test_good_music() -> None:
    found = levels(music(bars=4))
    assert found.peak_db == pytest.approx(20 * math.log10(0.8), abs=1e-4)
    assert found.clipped == 0
    assert found.silence == (0, 0)
    assert not found.mono


def test_clipping_needs_runs() -> None:
    song = noise(1) * 0.1
    song[0, 1000:1010] = 1
    song[1, 2000] = -1
    song[1, 3000:3002] = -1
    assert levels(song).clipped == pytest.approx(10 / (2 * RATE))


@pytest.mark.parametrize(("name", "codec", "sample_format"), [
    ("a.wav", "pcm_s16le", "s16"), ("a.ogg", "vorbis", "fltp"), ("a.flac", "flac", "s16")])
def test_clipping_survives_resampling(
        tmp_path: Path, name: str, codec: str, sample_format: str) -> None:
    fine = tone(44_100, 3, 220, 330)
    clipped = (fine * 4).clip(-1, 1)
    found = [levels(decode(encode(tmp_path / f"{number}{name}", wave, 44_100, codec, sample_format))).clipped
             for number, wave in enumerate((fine, clipped))]
    assert found[0] == 0
    assert found[1] > 0.1


def test_silence() -> None:
    song = music(bars=6)
    song[:, 2 * RATE : 5 * RATE] = 1e-4
    song[:, 7 * RATE : 8 * RATE] = 0
    found = levels(song)
    assert found.silence == (2, 5)
    assert found.silent == pytest.approx(4 / 12, abs=0.02)


def test_silent_end() -> None:
    song = torch.cat([noise(1), torch.zeros(2, 2 * RATE)], dim=1)
    assert levels(song).silence == (1, 3)


def test_mono() -> None:
    song = music(bars=2)
    both = song.mean(dim=0).expand(2, -1)
    assert levels(both).mono
    assert levels(both + torch.stack([torch.zeros_like(both[0]), both[0] * 1e-4])).mono
    assert not levels(both + torch.stack([torch.zeros_like(both[0]), both[0] * 1e-2])).mono
    assert levels(torch.zeros(2, RATE)).mono
