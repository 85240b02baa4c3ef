"""Trainings that are under way in this process, by the ids of their runs: their controls, and where each stands."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...sidestep_core.runs.summary import UnderWay
from ...sidestep_core.training.controls import Controls


@dataclass(frozen=True, kw_only=True)
class Live:
    """One training that is under way."""

    run: str
    node_id: str
    controls: Controls
    stopped: threading.Event = field(default_factory=threading.Event)
    """Set once a stop was requested: the step in hand is still finished."""

    @property
    def state(self) -> UnderWay:
        if self.stopped.is_set():
            return "stopping"
        return "paused" if self.controls.is_paused else "running"


_live: dict[str, Live] = {}
_lock = threading.Lock()
reopened: set[str] = set()
"""Runs that were finished by hand and are to go on when they are started again, whatever the host has cached."""


@contextlib.contextmanager
def training(run: str, node_id: str) -> Iterator[Live]:
    """List the run as under way for the block."""
    live = Live(run=run, node_id=node_id, controls=Controls())
    with _lock:
        _live[run] = live
        reopened.discard(run)
    try:
        yield live
    finally:
        with _lock:
            _live.pop(run, None)


def find(run: str) -> Live | None:
    """Training of the run; None if it is not under way."""
    with _lock:
        return _live.get(run)


def stop(run: str) -> None:
    """Note that a stop of the run was requested, if it is under way."""
    if (live := find(run)) is not None:
        live.stopped.set()


def states() -> dict[str, UnderWay]:
    """State of each run that is under way."""
    with _lock:
        return {run: live.state for run, live in _live.items()}
