"""Report on the sound of a song: length, levels, loudness, estimates and warnings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """Value estimated from the audio, with a confidence from 0 to 1."""

    value: str
    """Spelled as in a sidecar: "128", "A minor", "3/4"."""
    confidence: float


@dataclass(frozen=True, kw_only=True)
class SongReport:
    """Measured and estimated facts of one song."""

    name: str
    """Name of the song."""
    seconds: float
    sample_rate: int
    channels: int
    """Channels of the file, before it becomes stereo at 48 kHz."""
    peak_db: float
    """Loudest sample in dBFS; -inf for digital silence."""
    loudness: float
    """Integrated, in LUFS; -inf where it is silent or too short."""
    clipped: float
    """Share of samples in runs at full scale, 0 to 1; clipping that a lossy encoder turned down is not found."""
    silent: float
    """Share of the song below -60 dBFS, 0 to 1."""
    mono: bool
    """Both channels are the same."""
    fingerprint: str
    """Hex digits, nearly equal for the same recording in another format."""
    bpm: Estimated | None = None
    key: Estimated | None = None
    signature: Estimated | None = None
    warnings: tuple[str, ...] = ()
    """Whole sentences for the person who owns the song."""


def clock(seconds: float) -> str:
    """Format whole seconds: 3:05, 1:03:05."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
