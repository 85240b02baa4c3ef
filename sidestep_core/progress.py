"""Progress and cancellation in one channel: every stage calls `report(Progress(...))`, which may raise `Cancelled`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Stage = Literal["load", "analyze", "split", "clip", "preprocess", "estimate", "train", "preview", "save",
                "pause"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One unit of work done: `step` of `total` in `stage`, with metrics to show."""

    stage: Stage
    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    message: str = ""
    measured_on: str = ""
    """Songs of the held-out loss in `metrics`: "held_out" or "trained"."""
    notice: str = ""
    """Message that stays visible until the end, such as an ignored setting."""
    saved: tuple[int, ...] | None = None
    """Steps of the checkpoints that are on the disk; None if nothing was saved since the last report."""


class Cancelled(Exception):
    """Signal to stop, not an error.  Stages save their last finished unit, then let it propagate."""


def was_stopped(error: BaseException) -> bool:
    """Return True if the work was stopped, rather than failed.

    A host may interrupt any call by a BaseException that is not an Exception.
    """
    return isinstance(error, Cancelled) or not isinstance(error, Exception)


Report = Callable[[Progress], None]
"""Called after every unit of work: a forward and backward pass, a tile of audio, a song.  May raise `Cancelled`."""


def ignore(progress: Progress) -> None:
    """Discard a report."""
