"""Loudness, true peak, and normalisation of audio."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import optional
from ..config import Normalise
from .decode import SAMPLE_RATE

PEAK_DBFS = -1.0
TARGET_LUFS = -14.0
TRUE_PEAK_DBTP = -1.0

_GATING_SECONDS = 0.4
_OVERSAMPLING = 4
_FILTER_WIDTH = 24
_BLOCK = 10 * SAMPLE_RATE


def normalised(waveform_CN: Tensor, how: Normalise) -> Tensor:
    """Normalise a waveform at 48 kHz by one gain.

    none: return the same object.  peak: loudest sample at -1 dBFS.  lufs: integrated loudness of -14 LUFS, or less
    where the true peak would pass -1 dBTP; no limiting, no compression.  Audio without a level (silence; for lufs also
    less than 0.4 s or -70 LUFS, or not finite) is returned as it is.
    Raises MissingDependency where lufs needs pyloudnorm.
    """
    if how == "none":
        return waveform_CN
    gain = (PEAK_DBFS - decibels(float(waveform_CN.abs().max())) if how == "peak"
            else TARGET_LUFS - integrated(waveform_CN))
    if not math.isfinite(gain):
        return waveform_CN
    if how == "lufs":
        gain = min(gain, TRUE_PEAK_DBTP - decibels(true_peak(waveform_CN)))
    return waveform_CN * 10 ** (gain / 20)


def integrated(waveform_CN: Tensor) -> float:
    """Measure integrated loudness in LUFS (ITU-R BS.1770-4) at 48 kHz; -inf for silence and for less than 0.4 s.

    Both channels of a mono song count, as both loudspeakers play it.
    """
    with optional.imports("pyloudnorm", "Measuring loudness"):
        from pyloudnorm import Meter
    if waveform_CN.shape[1] < _GATING_SECONDS * SAMPLE_RATE or not torch.isfinite(waveform_CN).all():
        return -math.inf
    return float(Meter(SAMPLE_RATE, block_size=_GATING_SECONDS).integrated_loudness(waveform_CN.T.cpu().numpy()))


def metered(waveform_CN: Tensor) -> float | None:
    """Measure integrated loudness as `integrated` does, by the meter that comes with ComfyUI; it agrees to 0.01 LU.

    None for audio without a loudness.
    """
    from torchaudio.functional import loudness

    if waveform_CN.shape[1] < _GATING_SECONDS * SAMPLE_RATE:
        return None
    lufs = float(loudness(waveform_CN.cpu().float(), SAMPLE_RATE))
    return lufs if math.isfinite(lufs) else None


def true_peak(waveform_CN: Tensor) -> float:
    """Measure the largest amplitude at four times the sample rate (as in ITU-R BS.1770-4, annex 2)."""
    from torchaudio.functional import resample

    largest = float(waveform_CN.abs().max())
    for start in range(0, waveform_CN.shape[1], _BLOCK):
        # Overlap by the filter's width, so that blocks do not begin and end with a click.
        first = max(0, start - _FILTER_WIDTH)
        block = waveform_CN[:, first : start + _BLOCK + _FILTER_WIDTH]
        between = resample(block, 1, _OVERSAMPLING, lowpass_filter_width=_FILTER_WIDTH)
        inner = between[:, (start - first) * _OVERSAMPLING :][:, : _BLOCK * _OVERSAMPLING]
        largest = max(largest, float(inner.abs().max()))
    return largest


def decibels(amplitude: float) -> float:
    """Convert an amplitude to decibels relative to 1; -inf for 0."""
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf
