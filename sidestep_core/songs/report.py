"""What a song sounds like, as far as a computer can tell: lengths, levels, tempo, key; and what to look at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """A value that was estimated from the audio, and how sure that is, from 0 to 1."""

    value: str
    """As a sidecar would say it: "128", "A minor", "3/4"."""
    confidence: float


@dataclass(frozen=True, kw_only=True)
class SongReport:
    """Measured and estimated facts of one song."""

    name: str
    """The song's."""
    seconds: float
    sample_rate: int
    channels: int
    """Of the file, before it becomes stereo at 48 kHz."""
    peak_db: float
    """Loudest sample in dBFS; -inf for digital silence."""
    loudness: float
    """Integrated, in LUFS; -inf where it is silent or too short."""
    clipped: float
    """Share of the samples that are in runs at full scale, 0 to 1; what an MP3 encoder turned down is not found."""
    silent: float
    """Share of the song that is quieter than -60 dBFS, 0 to 1."""
    mono: bool
    """Both channels are the same."""
    fingerprint: str
    """Equal, or nearly, for the same recording in another format."""
    bpm: Estimated | None = None
    key: Estimated | None = None
    signature: Estimated | None = None
    warnings: tuple[str, ...] = ()
    """Whole sentences for the person who owns the song."""


def clock(seconds: float) -> str:
    """Whole seconds as reports write them: 3:05, 1:03:05."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
