"""Audio fingerprints: find the same recording at any format, level and offset.

A fingerprint has 32 bits for every tenth of a second, the signs of the change in energy difference between neighbouring
bands (after J. Haitsma and T. Kalker, "A Highly Robust Audio Fingerprinting System", 2002).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .decode import SAMPLE_RATE

FINGERPRINT_SECONDS = 120
SAME = 0.25
"""Largest share of differing bits in the same recording; of different ones half differ."""

_BITS = 32
_LOWEST, _HIGHEST = 200.0, 2200.0
_FRAME = 16_384
_HOP = SAMPLE_RATE // 10
_FEWEST = 20
_OVERLAP = 0.5
"""Least overlap, as a share of the shorter song."""
# Words shared by more songs (fade-outs, held tones) distinguish nothing, and would take long.
_MAX_PLACES = 64
_MAX_SHIFTS = 8
_SHIFTS = 4096
"""Bound on the offsets of a fingerprint in both directions."""


def fingerprint(waveform_CN: Tensor) -> str:
    """Compute eight hex digits for every tenth of a second of the first two minutes at 48 kHz; zeros where silent."""
    mono = waveform_CN[:, : FINGERPRINT_SECONDS * SAMPLE_RATE].mean(dim=0)
    if len(mono) < _FRAME + _HOP:
        return ""
    frames = mono.unfold(0, _FRAME, _HOP)
    window = torch.hann_window(_FRAME)
    energies = torch.cat([torch.fft.rfft(part * window).abs().square() @ _bands() for part in frames.split(64)])
    change = torch.diff(torch.diff(energies, dim=1), dim=0)
    words = ((change > 0).long() << torch.arange(_BITS)).sum(dim=1)
    return "".join(f"{word:08x}" for word in words.tolist())


def duplicates(fingerprints: Sequence[str]) -> list[tuple[int, int]]:
    """Find pairs of indices of the same recording, the smaller first, in order."""
    words = [_words(text) for text in fingerprints]
    return sorted({(one, other) for one, other, shift in _alike(words)
                   if difference(words[one], words[other], shift) < SAME})


def _alike(words: Sequence[Tensor]) -> Iterator[tuple[int, int, int]]:
    """Yield candidate pairs of songs that share words, with the offsets in words at which they share the most.

    Vectorized over all words, as ten thousand songs have ten million.
    """
    texts = torch.cat([torch.empty(0, dtype=torch.long), *words])
    songs = torch.repeat_interleave(torch.tensor([len(song) for song in words], dtype=torch.long))
    times = torch.cat([torch.empty(0, dtype=torch.long), *(torch.arange(len(song)) for song in words)])
    order = texts.argsort(stable=True)
    _, places = texts[order].unique_consecutive(return_counts=True)
    order = order[(places.repeat_interleave(places) <= _MAX_PLACES) & (texts[order] != 0)]
    texts, songs, times = texts[order], songs[order], times[order]
    found = [torch.empty(0, dtype=torch.long)]
    for apart in range(1, min(_MAX_PLACES, len(texts))):
        same = ((texts[apart:] == texts[:-apart]) & (songs[apart:] != songs[:-apart])).nonzero().flatten()
        pairs = songs[same] * len(words) + songs[same + apart]
        found.append(pairs * _SHIFTS + times[same] - times[same + apart] + _SHIFTS // 2)
    alike, counts = torch.cat(found).unique(return_counts=True)
    # The most frequent shifts of each pair first, the pairs in order.
    order = counts.argsort(descending=True, stable=True)
    order = order[(alike[order] // _SHIFTS).argsort(stable=True)]
    pairs = alike[order] // _SHIFTS
    earlier = torch.searchsorted(pairs, pairs)
    for one in alike[order][torch.arange(len(pairs)) - earlier < _MAX_SHIFTS].tolist():
        pair, shift = divmod(one, _SHIFTS)
        yield *divmod(pair, len(words)), shift - _SHIFTS // 2


def difference(one: Tensor, other: Tensor, shift: int) -> float:
    """Share of differing bits with the second song `shift` words later; 1 where too few words overlap."""
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
    """Matrix [spectrum bins, 33] that sums bins into bands of equal width in octaves."""
    bins = torch.arange(_FRAME // 2 + 1) * SAMPLE_RATE / _FRAME
    octaves = (bins / _LOWEST).log2() / math.log2(_HIGHEST / _LOWEST) * (_BITS + 1)
    return (octaves[:, None].floor() == torch.arange(_BITS + 1)).float()
