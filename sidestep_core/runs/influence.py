"""Influence of the trained songs on the held-out loss, as a run's folder lists it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ..io import atomic
from ..io.record import Between, Record
from . import files

MAX_BYTES = 16_000_000
DRAWS = 16
"""Usual draws of each song."""
SURE = 3.0
"""Standard errors that a score must be away from zero to help or to harm."""

Verdict = Literal["helps", "neutral", "harms"]


@dataclass(frozen=True, kw_only=True)
class SongInfluence(Record):
    """Influence of one trained song."""

    song: str
    score: float
    """Above zero if a step on this song lowers the held-out loss; about -1 to 1."""
    error: float
    """Standard error of the score."""

    @property
    def verdict(self) -> Verdict:
        """Judge the score by its error."""
        if abs(self.score) <= SURE * self.error:
            return "neutral"
        return "helps" if self.score > 0 else "harms"


@dataclass(frozen=True, kw_only=True)
class Influence(Record):
    """Influence of every trained song on an adapter, most helpful first."""

    step: Annotated[int, Between(0)]
    """Steps that the adapter was trained for."""
    draws: Annotated[int, Between(1)]
    """Draws measured of each song."""
    songs: tuple[SongInfluence, ...]

    def named(self, verdict: Verdict) -> tuple[str, ...]:
        """Names of the songs with this verdict."""
        return tuple(song.song for song in self.songs if song.verdict == verdict)


def write(path: Path, influence: Influence) -> None:
    """Write a file of influences."""
    atomic.write_json(path, influence.to_json())


def forget_after(folder: Path, step: int) -> None:
    """Remove the influences on an adapter of a run beyond this step, from which it goes on."""
    path = folder / files.INFLUENCE
    found = read(path)
    if found is not None and found.step > step:
        path.unlink(missing_ok=True)


def read(path: Path) -> Influence | None:
    """Read a file of influences; None if there is none, or if it is damaged."""
    return Influence.read_or_none(path, MAX_BYTES)
