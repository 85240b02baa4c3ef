"""Trainings that are under way in this process, by the ids of their runs: their controls, and where each stands."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from ...sidestep_core.runs.summary import UnderWay
from ...sidestep_core.training.controls import Controls

Later = Literal["pause", "finish"]
"""Request that a waiting run can meet when its turn comes."""


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


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A training whose workflow waits for its turn to go on."""

    training: Live
    prompt_id: str


_live: dict[str, Live] = {}
_waiting: dict[str, Waiting] = {}
_later: dict[str, Later] = {}
"""Request of each waiting run that it meets when its turn comes."""
_lock = threading.Lock()
reopened: set[str] = set()
"""Runs that were finished by hand and are to go on when they are started again, whatever the host has cached."""


@contextlib.contextmanager
def training(run: str, node_id: str) -> Iterator[Live]:
    """List the run as under way for the block."""
    live = Live(run=run, node_id=node_id, controls=Controls())
    with _lock:
        _live[run] = live
        _waiting.pop(run, None)
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
    """State of each run that is under way, or waits for its turn to go on."""
    with _lock:
        waiting: dict[str, UnderWay] = dict.fromkeys(_waiting, "paused")
        return waiting | {run: live.state for run, live in _live.items()}


def wait(training: Live, prompt_id: str) -> None:
    """List a training that gave way as waiting for its turn; if it was paused, it is paused again then."""
    with _lock:
        _waiting[training.run] = Waiting(training=training, prompt_id=prompt_id)
        if "pause" in training.controls.pending:
            _later[training.run] = "pause"


def waiting(run: str) -> Waiting | None:
    """Training of the run that waits for its turn; None if it does not."""
    with _lock:
        return _waiting.get(run)


def waits(run: str, prompt_id: str) -> bool:
    """Return True if the run waits for the turn of this workflow."""
    found = waiting(run)
    return found is not None and found.prompt_id == prompt_id


def arrived(prompt_id: str) -> None:
    """Note that the turn of a waiting workflow has come, whichever run it trains now."""
    with _lock:
        for run in [run for run, found in _waiting.items() if found.prompt_id == prompt_id]:
            del _waiting[run]


def stop_waiting(run: str) -> None:
    """Forget a training that waited: it does not go on by itself."""
    with _lock:
        _waiting.pop(run, None)
        _later.pop(run, None)


def ask_later(run: str, request: Later) -> None:
    """Let a waiting run meet a request when its turn comes, instead of an earlier one."""
    with _lock:
        _later[run] = request


def later(run: str) -> Later | None:
    """Request that a waiting run meets when its turn comes."""
    with _lock:
        return _later.get(run)


def pop_later(run: str) -> Later | None:
    """Take the request that a run meets from its start, or take it back; this counts once."""
    with _lock:
        return _later.pop(run, None)
