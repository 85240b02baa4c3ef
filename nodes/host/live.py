"""Trainings that are under way in this process, by the id of their run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from ...sidestep_core.runs.summary import UnderWay

_states: dict[str, UnderWay] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def training(run: str) -> Iterator[None]:
    """List the run as running for the block."""
    with _lock:
        _states[run] = "running"
    try:
        yield
    finally:
        with _lock:
            _states.pop(run, None)


def change(run: str, state: UnderWay) -> None:
    """Change the state of a run; without effect if it is not under way, or on its way to stop."""
    with _lock:
        if _states.get(run, "stopping") != "stopping":
            _states[run] = state


def states() -> dict[str, UnderWay]:
    """State of each run that is under way."""
    with _lock:
        return _states.copy()
