"""Matching of a recording in other formats, rates, levels and cuts, and of similar ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchaudio.functional import resample

from sidestep_core.audio.decode import decode
from sidestep_core.audio.fingerprint import SAME, _words, difference, duplicates, fingerprint
from tests.music import RATE, music
from tests.tones import encode


@pytest.fixture(scope="module")
def original() -> torch.Tensor:
    return music(bars=10, seed=1)


@pytest.fixture(scope="module")
def others() -> list[str]:
    """Other keys and tempos, and the same notes played by another drummer half a tone lower."""
    return [fingerprint(music(bars=10, seed=seed, bpm=bpm, root=root, minor=minor))
            for seed, bpm, root, minor in ((2, 120, 47, False), (3, 97, 48, False), (4, 120, 48, True))]


@pytest.mark.parametrize(("name", "codec", "sample_format", "rate", "bit_rate"), [
    ("a.mp3", "libmp3lame", "fltp", 44_100, 64_000), ("a.opus", "libopus", "flt", 48_000, 48_000),
    ("a.m4a", "aac", "fltp", 44_100, 128_000), ("a.wav", "pcm_s16le", "s16", 22_050, 1)])
def test_other_formats_match(
        tmp_path: Path, original: torch.Tensor, others: list[str], name: str, codec: str, sample_format: str, rate: int,
        bit_rate: int) -> None:
    wave = resample(original, RATE, rate).numpy()
    again = decode(encode(tmp_path / name, wave, rate, codec, sample_format, bit_rate=bit_rate))
    assert duplicates([fingerprint(original), *others, fingerprint(again * 0.4)]) == [(0, 4)]


@pytest.mark.parametrize("cut", [0.5, 3.33, 7.77])
def test_trimmed_copies_match(original: torch.Tensor, others: list[str], cut: float) -> None:
    trimmed = original[:, round(cut * RATE) :]
    assert duplicates([*others, fingerprint(trimmed), fingerprint(original)]) == [(3, 4)]


def test_other_recordings_differ(original: torch.Tensor, others: list[str]) -> None:
    words = _words(fingerprint(original))
    assert difference(words, words, 0) == 0
    for other in others:
        assert difference(words, _words(other), 0) > SAME + 0.05


def test_silence_is_no_duplicate() -> None:
    silent = fingerprint(torch.zeros(2, 20 * RATE))
    assert set(silent) == {"0"}
    assert duplicates([silent, silent, "", ""]) == []


def test_three_copies_are_three_pairs(original: torch.Tensor) -> None:
    assert duplicates([fingerprint(original)] * 3) == [(0, 1), (0, 2), (1, 2)]
