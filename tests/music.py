"""Music of known tempo, key and time signature."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from demo.songs import _add, _hiss, _kick, _note

RATE = 48_000
_MAJOR = ((0, 4, 7), (-3, 0, 4), (5, 9, 12), (7, 11, 14))
_MINOR = ((0, 3, 7), (-4, 0, 3), (-7, -4, 0), (7, 11, 14))


def music(*, bpm: float = 120, bars: int = 12, beats: int = 4, parts: int = 2, root: int = 48, minor: bool = False,
          seed: int = 0) -> Tensor:
    """Render audio [2, time] at 48 kHz: a chord and a drum on each bar's first beat, `parts` hi-hats per beat.

    root is a MIDI note: 48 is C.
    """
    random, beat = np.random.default_rng(seed), 60 / bpm
    song = np.zeros((2, round(bars * beats * beat * RATE)))
    for number in range(bars * beats):
        bar, position = divmod(number, beats)
        chord, start = (_MINOR if minor else _MAJOR)[bar % 4], number * beat
        if position == 0:
            for voice, step in enumerate(chord):
                _add(song, start, 0.25 * _note(root + 12 + step, beats * beat, 4, decay=1.5), 0.3 + 0.2 * voice)
            _add(song, start, 0.5 * _note(root - 12 + chord[0], beat, 2, decay=4), 0.5)
        _add(song, start, _kick() if position == 0 else 0.4 * _hiss(random, decay=25), 0.5)
        for part in range(1, parts):
            _add(song, start + part * beat / parts, 0.12 * _hiss(random, decay=60), 0.65)
    return torch.from_numpy(song * 0.8 / np.abs(song).max()).float()


def noise(seconds: float, seed: int = 0) -> Tensor:
    """Render noise [2, time] at 48 kHz, without tempo and key."""
    return 0.2 * torch.randn(2, round(seconds * RATE), generator=torch.Generator().manual_seed(seed))
