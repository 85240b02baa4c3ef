"""Songs that a training has learned by heart, as its folder lists them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..errors import SideStepError
from ..io import atomic
from ..io.record import Between, Record
from ..sentence import Sentence
from . import files

log = logging.getLogger(__name__)

MAX_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Known(Record):
    """One watched song."""

    song: str
    share: float
    """Share of its loss at high noise that is gone, beyond that of music that is not trained on."""
    by_heart: bool
    repeats: int = 1


@dataclass(frozen=True, kw_only=True)
class Watched(Record):
    """Watched songs after a step, best known first."""

    step: Annotated[int, Between(1)]
    songs: tuple[Known, ...]

    @property
    def by_heart(self) -> tuple[str, ...]:
        """Names of the songs that are learned by heart."""
        return tuple(song.song for song in self.songs if song.by_heart)

    def sentence(self, best_step: int) -> str:
        """Name the song that is known best by heart, and say what to do; empty if none is.

        `best_step` is the step of the best held-out loss.
        """
        known = [song for song in self.songs if song.by_heart]
        if not known:
            return ""
        first, more = known[0], len(known) - 1
        parts = [Sentence("{song} and {more} more are being learned by heart.", song=first.song, more=more) if more
                 else Sentence("{song} is being learned by heart.", song=first.song)]
        if first.repeats > 1:
            parts.append(Sentence("It is repeated {times} times in an epoch: repeat it less.", times=first.repeats))
        parts.append(Sentence("Take fewer steps or epochs, add songs, or lower the rank."))
        if 0 < best_step < self.step:
            parts.append(Sentence("The adapter of step {step} had the best held-out loss.", step=best_step))
        return Sentence.joined(parts)


def write(folder: Path, watched: Watched) -> None:
    """Write the watched songs of the run in the folder."""
    try:
        atomic.write_json(folder / files.BY_HEART, watched.to_json())
    except (SideStepError, OSError) as error:
        # It is for people, and the training goes on without it.
        log.warning("The watched songs of %s could not be written: %s", folder.name, error)


def forget_after(folder: Path, step: int) -> None:
    """Remove what a run watched after this step, from which it goes on."""
    watched = read(folder)
    if watched is not None and watched.step > step:
        (folder / files.BY_HEART).unlink(missing_ok=True)


def read(folder: Path) -> Watched | None:
    """Read the watched songs of the run in the folder; None if none were watched, or the file is damaged."""
    return Watched.read_or_none(folder / files.BY_HEART, MAX_BYTES)
