"""Whether two songs are the same recording, whatever their formats, levels and beginnings.

A fingerprint holds 32 bits for every tenth of a second: whether the difference of energy between neighbouring bands
rises or falls (after J. Haitsma and T. Kalker, "A Highly Robust Audio Fingerprinting System", 2002).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from .audio import SAMPLE_RATE

LISTENED_SECONDS = 120
SAME = 0.25
"""Most bits that may differ in the same recording; of different ones half do."""

_BITS = 32
_LOWEST, _HIGHEST = 200.0, 2200.0
_FRAME = 16_384
_HOP = SAMPLE_RATE // 10
_FEWEST = 20
_OVERLAP = 0.5
"""Share of the shorter song that has to be in both."""
# Words that more songs share than that (fade-outs, held tones) tell nothing, and would take long.
_MOST_PLACES = 64
_MOST_SHIFTS = 8


def fingerprint(waveform_CN: Tensor) -> str:
    """Eight hex digits for every tenth of a second of the first two minutes at 48 kHz; zeros where it is silent."""
    mono = waveform_CN[:, : LISTENED_SECONDS * SAMPLE_RATE].mean(dim=0)
    if len(mono) < _FRAME + _HOP:
        return ""
    frames = mono.unfold(0, _FRAME, _HOP)
    window = torch.hann_window(_FRAME)
    energies = torch.cat([torch.fft.rfft(part * window).abs().square() @ _bands() for part in frames.split(64)])
    change = torch.diff(torch.diff(energies, dim=1), dim=0)
    words = ((change > 0).long() << torch.arange(_BITS)).sum(dim=1)
    return "".join(f"{word:08x}" for word in words.tolist())


def duplicates(fingerprints: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of the numbers of those that are the same recording, the smaller first, in order."""
    words = [_words(text) for text in fingerprints]
    places: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for number, song in enumerate(words):
        for time, word in enumerate(song.tolist()):
            if word:
                places[word].append((number, time))
    shifts: dict[tuple[int, int], Counter[int]] = defaultdict(Counter)
    for found in places.values():
        if len(found) <= _MOST_PLACES:
            for (one, when), (other, then) in combinations(found, 2):
                if one != other:
                    shifts[one, other][when - then] += 1
    return sorted(pair for pair, counts in shifts.items()
                  if any(difference(words[pair[0]], words[pair[1]], shift) < SAME
                         for shift, _ in counts.most_common(_MOST_SHIFTS)))


def difference(one: Tensor, other: Tensor, shift: int) -> float:
    """Share of the bits that differ where the second song begins `shift` words later; 1 where too few overlap."""
    fewest = max(_FEWEST, _OVERLAP * min(int((song != 0).sum()) for song in (one, other)))
    one, other = one[max(0, shift) :], other[max(0, -shift) :]
    length = min(len(one), len(other))
    one, other = one[:length], other[:length]
    sounds = (one != 0) & (other != 0)
    if int(sounds.sum()) < fewest:
        return 1.0
    differing = (one ^ other)[sounds]
    return float(((differing[:, None] >> torch.arange(_BITS)) & 1).float().mean())


def _words(text: str) -> Tensor:
    return torch.tensor([int(text[at : at + 8], 16) for at in range(0, len(text), 8)], dtype=torch.long)


def _bands() -> Tensor:
    """[bins of the spectrum, 33]: which bin belongs to which of the bands, equally wide in octaves."""
    bins = torch.arange(_FRAME // 2 + 1) * SAMPLE_RATE / _FRAME
    octaves = (bins / _LOWEST).log2() / math.log2(_HIGHEST / _LOWEST) * (_BITS + 1)
    return (octaves[:, None].floor() == torch.arange(_BITS + 1)).float()
