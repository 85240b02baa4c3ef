"""Progress and cancel in one channel: every stage calls `report(Progress(...))`, which may raise `Cancelled`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Stage = Literal["load", "listen", "preprocess", "estimate", "train", "preview", "save"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One unit of work done: `step` of `total` in `stage`, with the numbers worth showing."""

    stage: Stage
    step: int
    total: int
    metrics: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    message: str = ""
    measured_on: str = ""
    """Songs that the held-out loss in `metrics` was measured on: "held_out" or "trained"."""
    notice: str = ""
    """What stays worth knowing until the end, such as a setting that is not followed."""


class Cancelled(Exception):
    """A signal, not an error: the person asked to stop.  Stages save their last finished unit, then let it rise."""


def was_stopped(error: BaseException) -> bool:
    """Whether someone stopped the work, rather than that it failed.

    A host may stop us from inside any call, by an exception that is no Exception.
    """
    return isinstance(error, Cancelled) or not isinstance(error, Exception)


Report = Callable[[Progress], None]
"""Called after every unit of work: a forward and backward pass, a tile of audio, a song.  May raise `Cancelled`."""


def ignore(progress: Progress) -> None:
    """A report that nobody reads."""
