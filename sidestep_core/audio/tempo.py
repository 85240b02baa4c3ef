"""Estimation of tempo, beats and time signature.

Tempo by the autocorrelation of onset strength, with a prior on moderate tempos to resolve octaves (half or double
tempo); beats by librosa (D. Ellis, "Beat Tracking by Dynamic Programming", 2007).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import optional
from .decode import SAMPLE_RATE

RATE = 22_050
"""Sample rate of the analyzed audio."""

_HOP = 256
_FRAMES_PER_SECOND = RATE / _HOP
_BANDS = 64
_LOW_BANDS = 6
"""Mel bands up to 350 Hz: bass and bass drum."""
_COMPRESSION = 20.0
_BASS = 0.3
"""Extra weight of the bass in the onsets."""
_SLOWEST, _FASTEST = 40.0, 240.0
_USUAL, _USUAL_OCTAVES = 115.0, 0.65
"""Centre and standard deviation of the preferred tempos."""
_COMB = 4
"""Multiples of a period at which the autocorrelation is averaged."""
_SURE = 0.22
"""Periodicity of music played to a click, full confidence; free playing stays below 0.1, noise below 0.02."""
_SAME_TEMPO = 0.04
_FEWEST_BEATS = 16
_SIGNATURE_SURE = 0.5
_TRIPLETS = 0.15


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """Beats of a song."""

    bpm: float
    confidence: float
    """Confidence of the tempo, 0 to 1."""
    beats: tuple[float, ...]
    """Times of the beats in seconds."""
    signature: str
    """3/4, 4/4 or 6/8; the beat of 6/8 is a dotted quarter note."""
    signature_confidence: float
    """Confidence of the signature, 0 to 1; mostly low, as accents are weak evidence."""
    downbeat: int
    """Index of the first beat that begins a bar."""

    @property
    def beats_per_bar(self) -> int:
        return {"3/4": 3, "4/4": 4, "6/8": 2}[self.signature]


@dataclass(frozen=True, kw_only=True)
class _Features:
    """Features of the audio, frame by frame."""

    onsets: Tensor
    """[frames]: onset strength."""
    bands: Tensor
    """[bands, frames]: compressed level."""


def analyzed(waveform_CN: Tensor) -> Tensor:
    """Mix a waveform at 48 kHz to mono [samples] at 22.05 kHz."""
    from torchaudio.functional import resample

    mono: Tensor = resample(waveform_CN.mean(dim=0), SAMPLE_RATE, RATE)
    return mono


def rhythm(mono: Tensor) -> Rhythm | None:
    """Estimate tempo, beats and signature of [samples] at 22.05 kHz; None for fewer than 16 beats.

    Raises MissingDependency without librosa.
    """
    sound = _features(mono)
    half = len(sound.onsets) // 2
    if half < 2 * _FRAMES_PER_SECOND or not float(sound.onsets.abs().max()) > 0:
        return None
    periodicity = _periodicity(sound.onsets)
    period, strength, rivals = _period(periodicity)
    halves = [_period(_periodicity(part))[0] for part in (sound.onsets[:half], sound.onsets[half:])]
    frames = _beats(sound.onsets, period)
    if len(frames) < _FEWEST_BEATS:
        return None
    confidence = min(1.0, strength / _SURE) * (0.6 + 0.4 * (1 - rivals)) * _agreement(period, halves)
    signature, sure, downbeat = _metre(sound, frames, periodicity, period)
    return Rhythm(bpm=60 * _FRAMES_PER_SECOND / period, confidence=confidence,
                  beats=tuple((frames / _FRAMES_PER_SECOND).tolist()), signature=signature,
                  signature_confidence=sure * confidence, downbeat=downbeat)


def require_librosa() -> None:
    """Raise MissingDependency, with the package to install, where librosa cannot be imported."""
    with optional.imports("librosa", "Estimating tempo and key"):
        import librosa  # noqa: F401


def _features(mono: Tensor) -> _Features:
    require_librosa()
    import librosa

    power = torch.from_numpy(librosa.feature.melspectrogram(y=mono.numpy(), sr=RATE, n_fft=1024, hop_length=_HOP,
                                                            n_mels=_BANDS))
    loud = power.amax(dim=0).sqrt().sort().values[int(0.99 * power.shape[1])].clamp_min(1e-9)
    # Compressed less than decibels, in which a faint hi-hat has as strong an onset as a drum.
    bands = (_COMPRESSION * power.sqrt() / loud).log1p()
    everything, bass = (_onsets(part) for part in (bands, bands[:_LOW_BANDS]))
    return _Features(onsets=everything + _BASS * bass, bands=bands)


def _onsets(bands: Tensor) -> Tensor:
    """Onset strength [frames], of standard deviation 1."""
    import librosa

    # Not moved by half a window (center), so that a cut at a beat is a little before its sound and never in it.
    onsets = torch.from_numpy(librosa.onset.onset_strength(S=bands.numpy(), sr=RATE, hop_length=_HOP, center=False))
    return onsets / onsets.std().clamp_min(1e-9)


def _periodicity(onsets: Tensor) -> Tensor:
    """Autocorrelation by lag in frames, 1 at 0."""
    second = int(_FRAMES_PER_SECOND) | 1
    around = F.avg_pool1d(F.pad(onsets[None, None], (second // 2, second // 2), mode="replicate"), second, 1)[0, 0]
    count = len(onsets)
    spectrum = torch.fft.rfft(onsets - around, 2 * count)
    correlation: Tensor = torch.fft.irfft(spectrum.abs().square())[:count] / torch.arange(count, 0, -1)
    return correlation / correlation[0].clamp_min(1e-12)


def _at(values: Tensor, places: Tensor) -> Tensor:
    """Interpolate linearly between frames; 0 behind the end."""
    whole = places.floor().long().clamp(0, len(values) - 2)
    share = places - whole
    return torch.where(places < len(values) - 1, values[whole] * (1 - share) + values[whole + 1] * share, 0.0)


def _comb(periodicity: Tensor, periods: Tensor) -> Tensor:
    return torch.stack([_at(periodicity, periods * number) for number in range(1, _COMB + 1)]).mean(dim=0)


def _period(periodicity: Tensor) -> tuple[float, float, float]:
    """Beat period in frames, its strength (up to 1), and the relative score of its strongest rival (0 to 1)."""
    steps = torch.arange(0, math.log2(_FASTEST / _SLOWEST), 0.004)
    tempos = _SLOWEST * 2**steps
    strengths = _comb(periodicity, 60 * _FRAMES_PER_SECOND / tempos).clamp_min(0)
    scores = strengths * torch.exp(-0.5 * ((tempos / _USUAL).log2() / _USUAL_OCTAVES).square())
    best = int(scores.argmax())
    others = (tempos / tempos[best]).log2().abs() > 2 * _SAME_TEMPO
    rivals = float(scores[others].max() / scores[best].clamp_min(1e-12))
    return _refined(periodicity, 60 * _FRAMES_PER_SECOND / float(tempos[best])), float(strengths[best]), rivals


def _refined(periodicity: Tensor, period: float) -> float:
    """Refine a period to a fraction of a frame by its multiples."""
    for multiple in (2, 4, 8, 16):
        near = torch.linspace(-0.45, 0.45, 91) + period * multiple
        reach = torch.linspace(-0.3, 0.3, 61) * period / multiple + period if multiple == 2 else near / multiple
        if float(reach.max()) * multiple < len(periodicity) // 2:
            period = float(reach[_at(periodicity, reach * multiple).argmax()])
    return period


def _agreement(period: float, halves: list[float]) -> float:
    """Confidence factor by the agreement of both halves of the song with its tempo."""
    def one(other: float) -> float:
        octaves = abs(math.log2(other / period))
        return 1.0 if octaves < _SAME_TEMPO else 0.7 if abs(octaves - 1) < _SAME_TEMPO else 0.4

    return one(halves[0]) * one(halves[1])


def _beats(onsets: Tensor, period: float) -> Tensor:
    """Frames of the beats."""
    import librosa

    _, frames = librosa.beat.beat_track(onset_envelope=onsets.numpy(), sr=RATE, hop_length=_HOP, trim=False,
                                        bpm=60 * _FRAMES_PER_SECOND / period)
    return torch.as_tensor(frames)


def _metre(sound: _Features, frames: Tensor, periodicity: Tensor, period: float) -> tuple[str, float, int]:
    """Time signature, its confidence, and the index of the first downbeat."""
    accents = _accents(sound, frames)
    centred = accents - accents.mean()
    whole = centred.square().mean().clamp_min(1e-12)

    def returns(lags: tuple[int, ...]) -> float:
        found = [float((centred[lag:] * centred[:-lag]).mean() / whole) for lag in lags if lag < len(accents) // 2]
        return sum(found) / max(1, len(found))

    three, four = returns((3, 9, 15)), returns((4, 8, 16))
    thirds = float(_at(periodicity, torch.tensor([period / 3, 2 * period / 3])).mean())
    if thirds - float(_at(periodicity, torch.tensor([period / 2]))[0]) > _TRIPLETS:
        signature, beats, sure = "6/8", 2, 0.5
    else:
        signature, beats = ("3/4", 3) if three > four else ("4/4", 4)
        sure = min(1.0, max(0.0, abs(three - four) - 1 / math.sqrt(len(accents))) / _SIGNATURE_SURE)
    strongest = int(torch.stack([accents[phase::beats].mean() for phase in range(beats)]).argmax())
    return signature, sure, strongest


def _accents(sound: _Features, frames: Tensor) -> Tensor:
    """Downbeat score [beats] of each beat, from its onset, its bass and a change of harmony."""
    near = F.max_pool1d(sound.onsets[None, None], 5, 1, 2)[0, 0][frames]
    bass = F.relu(torch.diff(sound.bands[:_LOW_BANDS], dim=1, prepend=sound.bands[:_LOW_BANDS, :1])).mean(dim=0)
    edges = [*frames.tolist(), sound.bands.shape[1]]
    chords = torch.stack([sound.bands[:, start:max(stop, start + 1)].mean(dim=1)
                          for start, stop in zip(edges, edges[1:], strict=False)])
    changes = torch.diff(chords, dim=0, prepend=chords[:1]).norm(dim=1)
    parts = (near, F.max_pool1d(bass[None, None], 5, 1, 2)[0, 0][frames], changes)
    return torch.stack([(part - part.mean()) / part.std().clamp_min(1e-6) for part in parts]).mean(dim=0)
