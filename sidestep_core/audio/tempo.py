"""Tempo, beats and time signature from the audio.

Tempo by the autocorrelation of how strongly sounds begin, with a preference for moderate tempos, as every song may be
counted at half or double its tempo too; beats by librosa (D. Ellis, "Beat Tracking by Dynamic Programming", 2007).
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
"""Of the audio that is analysed."""

_HOP = 256
_FRAMES_PER_SECOND = RATE / _HOP
_BANDS = 64
_LOW_BANDS = 6
"""Up to 350 Hz: bass and bass drum."""
_COMPRESSION = 20.0
_BASS = 0.3
"""Weight of the bass in the onsets, besides its part in the whole."""
_SLOWEST, _FASTEST = 40.0, 240.0
_USUAL, _USUAL_OCTAVES = 115.0, 0.65
"""Centre and standard deviation of the preferred tempos."""
_COMB = 4
"""Beats of the future in which a tempo must come true."""
_SURE = 0.22
"""How strongly beats return in what is played to a click; free playing stays below 0.1, noise below 0.02."""
_SAME_TEMPO = 0.04
_FEWEST_BEATS = 16
_SIGNATURE_SURE = 0.5
_TRIPLETS = 0.15


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """The beats of a song."""

    bpm: float
    confidence: float
    """Of the tempo, 0 to 1."""
    beats: tuple[float, ...]
    """Their times in seconds."""
    signature: str
    """3/4, 4/4 or 6/8; the beat of 6/8 is a dotted quarter note."""
    signature_confidence: float
    """0 to 1; accents tell little, so mostly low."""
    downbeat: int
    """Number of the first beat that begins a bar."""

    @property
    def beats_per_bar(self) -> int:
        return {"3/4": 3, "4/4": 4, "6/8": 2}[self.signature]


@dataclass(frozen=True, kw_only=True)
class _Sound:
    """How the analysed audio changes, frame by frame."""

    onsets: Tensor
    """[frames]: how strongly sounds begin."""
    bands: Tensor
    """[bands, frames]: compressed level."""


def analysed(waveform_CN: Tensor) -> Tensor:
    """[samples] at 22.05 kHz, both channels together, of a waveform at 48 kHz."""
    from torchaudio.functional import resample

    mono: Tensor = resample(waveform_CN.mean(dim=0), SAMPLE_RATE, RATE)
    return mono


def rhythm(mono: Tensor) -> Rhythm | None:
    """Tempo, beats and signature of [samples] at 22.05 kHz; None where fewer than 16 beats are heard.

    Raises MissingDependency without librosa.
    """
    sound = _listen(mono)
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
    """MissingDependency, with what to install, where librosa cannot be imported."""
    with optional.imports("librosa", "Hearing tempo and key"):
        import librosa  # noqa: F401


def _listen(mono: Tensor) -> _Sound:
    require_librosa()
    import librosa

    power = torch.from_numpy(librosa.feature.melspectrogram(y=mono.numpy(), sr=RATE, n_fft=1024, hop_length=_HOP,
                                                            n_mels=_BANDS))
    loud = power.amax(dim=0).sqrt().sort().values[int(0.99 * power.shape[1])].clamp_min(1e-9)
    # Compressed less than decibels are, in which a faint hi-hat begins as strongly as a drum.
    bands = (_COMPRESSION * power.sqrt() / loud).log1p()
    everything, bass = (_onsets(part) for part in (bands, bands[:_LOW_BANDS]))
    return _Sound(onsets=everything + _BASS * bass, bands=bands)


def _onsets(bands: Tensor) -> Tensor:
    """[frames], of standard deviation 1."""
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
    """Values between two frames, by a straight line; 0 behind the end."""
    whole = places.floor().long().clamp(0, len(values) - 2)
    share = places - whole
    return torch.where(places < len(values) - 1, values[whole] * (1 - share) + values[whole + 1] * share, 0.0)


def _comb(periodicity: Tensor, periods: Tensor) -> Tensor:
    return torch.stack([_at(periodicity, periods * number) for number in range(1, _COMB + 1)]).mean(dim=0)


def _period(periodicity: Tensor) -> tuple[float, float, float]:
    """Frames of a beat, how strongly it returns (up to 1), and what its strongest rival has of its score (0 to 1)."""
    steps = torch.arange(0, math.log2(_FASTEST / _SLOWEST), 0.004)
    tempos = _SLOWEST * 2**steps
    strengths = _comb(periodicity, 60 * _FRAMES_PER_SECOND / tempos).clamp_min(0)
    scores = strengths * torch.exp(-0.5 * ((tempos / _USUAL).log2() / _USUAL_OCTAVES).square())
    best = int(scores.argmax())
    others = (tempos / tempos[best]).log2().abs() > 2 * _SAME_TEMPO
    rivals = float(scores[others].max() / scores[best].clamp_min(1e-12))
    return _refined(periodicity, 60 * _FRAMES_PER_SECOND / float(tempos[best])), float(strengths[best]), rivals


def _refined(periodicity: Tensor, period: float) -> float:
    """The same period to a fraction of a frame, by its multiples."""
    for multiple in (2, 4, 8, 16):
        near = torch.linspace(-0.45, 0.45, 91) + period * multiple
        reach = torch.linspace(-0.3, 0.3, 61) * period / multiple + period if multiple == 2 else near / multiple
        if float(reach.max()) * multiple < len(periodicity) // 2:
            period = float(reach[_at(periodicity, reach * multiple).argmax()])
    return period


def _agreement(period: float, halves: list[float]) -> float:
    """How far both halves of the song have its tempo, so that it is not that of a few bars only."""
    def one(other: float) -> float:
        octaves = abs(math.log2(other / period))
        return 1.0 if octaves < _SAME_TEMPO else 0.7 if abs(octaves - 1) < _SAME_TEMPO else 0.4

    return one(halves[0]) * one(halves[1])


def _beats(onsets: Tensor, period: float) -> Tensor:
    """The frames of the beats."""
    import librosa

    _, frames = librosa.beat.beat_track(onset_envelope=onsets.numpy(), sr=RATE, hop_length=_HOP, trim=False,
                                        bpm=60 * _FRAMES_PER_SECOND / period)
    return torch.as_tensor(frames)


def _metre(sound: _Sound, frames: Tensor, periodicity: Tensor, period: float) -> tuple[str, float, int]:
    """Time signature, how sure it is, and the number of the first downbeat."""
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


def _accents(sound: _Sound, frames: Tensor) -> Tensor:
    """[beats]: how much each beat sounds like the first of a bar: by its onset, its bass, and a change of harmony."""
    near = F.max_pool1d(sound.onsets[None, None], 5, 1, 2)[0, 0][frames]
    bass = F.relu(torch.diff(sound.bands[:_LOW_BANDS], dim=1, prepend=sound.bands[:_LOW_BANDS, :1])).mean(dim=0)
    edges = [*frames.tolist(), sound.bands.shape[1]]
    chords = torch.stack([sound.bands[:, start:max(stop, start + 1)].mean(dim=1)
                          for start, stop in zip(edges, edges[1:], strict=False)])
    changes = torch.diff(chords, dim=0, prepend=chords[:1]).norm(dim=1)
    parts = (near, F.max_pool1d(bass[None, None], 5, 1, 2)[0, 0][frames], changes)
    return torch.stack([(part - part.mean()) / part.std().clamp_min(1e-6) for part in parts]).mean(dim=0)
