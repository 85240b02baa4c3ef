"""The key of music that is made in a known one; noise must have none."""

from __future__ import annotations

import sys

import pytest
import torch

from sidestep_core.audio.key import musical_key
from sidestep_core.audio.tempo import RATE, analyzed
from sidestep_core.errors import MissingDependency
from tests.music import music, noise

SURE = 0.5
UNSURE = 0.1


@pytest.mark.parametrize(("root", "minor", "name"), [
    (48, False, "C major"), (55, False, "G major"), (51, False, "Eb major"), (47, False, "B major"),
    (53, False, "F major"), (45, True, "A minor"), (52, True, "E minor"), (49, True, "C# minor"), (48, True, "C minor"),
])
def test_key_is_found(root: int, minor: bool, name: str) -> None:
    found = musical_key(analyzed(music(root=root, minor=minor)))
    assert found is not None
    assert found.name == name
    assert found.confidence > SURE


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_has_no_key(seed: int) -> None:
    found = musical_key(analyzed(noise(20, seed)))
    assert found is None or found.confidence < UNSURE


def test_key_change_lowers_confidence() -> None:
    two = torch.cat([music(root=48), music(root=54)], dim=1)
    found = musical_key(analyzed(two))
    assert found is None or found.confidence < SURE


def test_silence_has_no_key() -> None:
    assert musical_key(torch.zeros(5 * RATE)) is None
    song = analyzed(music(bars=3))
    assert musical_key(song[: 5 * RATE - 1]) is None
    assert musical_key(song[: 5 * RATE]) is not None


def test_without_librosa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(MissingDependency, match="pip install --upgrade librosa"):
        musical_key(torch.ones(5 * RATE))
