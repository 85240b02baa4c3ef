"""Key estimation by correlating pitch classes with profiles of the 24 major and minor keys.

The profiles are frequencies of the degrees in music of known key, by J. Albrecht and D. Shanahan, "The Use of Large
Corpora to Train a New Type of Key-Finding Algorithm", 2013.  On 41 songs they gave the same key for both halves more
often (22) than those of Krumhansl and Kessler (15) or of Temperley (16).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .tempo import RATE, require_librosa

_MAJOR = (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081)
_MINOR = (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052)
# As most people write them; ACE-Step's captions mix sharps and flats in the same way.
_NAMES = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
_MINOR_NAMES = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")

SHORTEST = 5.0
_HOP = 2048
_MARGIN = 0.2
"""Lead in correlation over the second best key at which the confidence is full."""
_CONTRAST = 0.25
"""Standard deviation of pitch classes relative to their mean in tonal music; noise has 0.03."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """Best fitting key."""

    name: str
    """Name such as A minor."""
    confidence: float
    """0 to 1."""


def musical_key(mono: Tensor) -> Key | None:
    """Estimate the key of [samples] at 22.05 kHz; None for less than 5 s and for silence.

    Raises MissingDependency without librosa.
    """
    if len(mono) < SHORTEST * RATE or not float(mono.abs().max()) > 0:
        return None
    chroma = _chroma(mono)
    half = chroma.shape[1] // 2
    best, margin, contrast = _fit(chroma.mean(dim=1))
    halves = [_fit(part.mean(dim=1))[0] for part in (chroma[:, :half], chroma[:, half:])]
    confidence = min(1.0, margin / _MARGIN) * min(1.0, contrast / _CONTRAST)
    for other in halves:
        confidence *= 1.0 if other == best else 0.8 if _relative(other) == best else 0.6
    return Key(name=_name(best), confidence=confidence)


def _chroma(mono: Tensor) -> Tensor:
    """Chroma [12, frames], C to B, each frame scaled to a maximum of 1, so that quiet bars count equally."""
    require_librosa()
    import librosa

    return torch.from_numpy(librosa.feature.chroma_cqt(y=mono.numpy(), sr=RATE, hop_length=_HOP, bins_per_octave=36))


def _fit(classes: Tensor) -> tuple[int, float, float]:
    """Index of the best key (major from C, then minor), its lead over the second best, and the contrast."""
    profiles = torch.stack([torch.tensor(profile).roll(tonic) for profile in (_MAJOR, _MINOR) for tonic in range(12)])
    profiles = profiles - profiles.mean(dim=1, keepdim=True)
    centred = classes - classes.mean()
    fits = (profiles @ centred.float()) / (profiles.norm(dim=1) * centred.norm().clamp_min(1e-12))
    first, second = fits.topk(2)
    contrast = float(classes.std() / classes.mean().clamp_min(1e-12))
    return int(second[0]), float(first[0] - first[1]), contrast


def _relative(key: int) -> int:
    """Relative key: A minor of C major and back."""
    return 12 + (key + 9) % 12 if key < 12 else (key - 12 + 3) % 12


def _name(key: int) -> str:
    return f"{_NAMES[key]} major" if key < 12 else f"{_MINOR_NAMES[key - 12]} minor"
