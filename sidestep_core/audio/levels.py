"""Levels of a song: peak, clipping, silence, and mono in two channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .decode import SAMPLE_RATE, SILENCE_DBFS
from .loudness import decibels

FULL_SCALE = 0.999
CLIPPED_RUN = 3
"""Samples in a row at full scale that count as clipping."""
_TENTH = SAMPLE_RATE // 10
# The difference of the channels against their sum: lossy codecs leave a little.
_SIDE_DB = -60.0


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Levels measured from a whole song."""

    peak_db: float
    """dBFS; -inf for digital silence."""
    clipped: float
    """Share of samples in runs at full scale."""
    silent: float
    """Share of tenths of a second below -60 dBFS."""
    silence: tuple[float, float]
    """Start and end of the longest silence in seconds; equal without one."""
    mono: bool
    """True if both channels are the same."""


def levels(waveform_CN: Tensor) -> Levels:
    """Measure the levels of a finite stereo waveform at 48 kHz."""
    quiet = _quiet_tenths(waveform_CN)
    return Levels(peak_db=decibels(float(waveform_CN.abs().max())), clipped=_clipped(waveform_CN),
                  silent=float(quiet.float().mean()), silence=_longest(quiet), mono=_is_mono(waveform_CN))


def _clipped(waveform_CN: Tensor) -> float:
    full = waveform_CN.abs() >= FULL_SCALE
    if full.shape[1] < CLIPPED_RUN:
        return 0.0
    runs = full.unfold(1, CLIPPED_RUN, 1).all(dim=2)
    inside = torch.zeros_like(full)
    for shift in range(CLIPPED_RUN):
        inside[:, shift : shift + runs.shape[1]] |= runs
    return float(inside.sum()) / inside.numel()


def _quiet_tenths(waveform_CN: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(waveform_CN, (0, -waveform_CN.shape[1] % _TENTH))
    return padded.abs().amax(dim=0).view(-1, _TENTH).amax(dim=1) < 10 ** (SILENCE_DBFS / 20)


def _longest(quiet: Tensor) -> tuple[float, float]:
    """Start and end in seconds of the longest run of quiet tenths of a second."""
    edges = torch.diff(torch.nn.functional.pad(quiet.int(), (1, 1)))
    starts, stops = (edges == 1).nonzero().flatten(), (edges == -1).nonzero().flatten()
    if not len(starts):
        return 0.0, 0.0
    longest = int((stops - starts).argmax())
    return int(starts[longest]) * _TENTH / SAMPLE_RATE, int(stops[longest]) * _TENTH / SAMPLE_RATE


def _is_mono(waveform_CN: Tensor) -> bool:
    side = float((waveform_CN[0] - waveform_CN[1]).square().mean().sqrt())
    middle = float((waveform_CN[0] + waveform_CN[1]).square().mean().sqrt())
    return decibels(side) <= decibels(middle) + _SIDE_DB if side else True
