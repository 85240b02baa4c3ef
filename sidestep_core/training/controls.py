"""Requests to a run in progress: any thread makes them, and the run itself meets them after a finished step.

Those that wait for the same step are met in the order of REQUESTS: the run saves, previews, and then ends, or else
gives way, or else pauses.  A stop is none of them: it comes through `report`, during a step.
"""

from __future__ import annotations

import threading
from typing import Literal, get_args

from ..errors import SideStepError
from ..progress import Cancelled, Progress, Report

Request = Literal["save", "preview", "finish", "give_way", "pause"]
REQUESTS: tuple[Request, ...] = get_args(Request)

POLL_SECONDS = 0.5
"""Time between two calls of `report`, which may stop the run, during a pause."""


class Refused(SideStepError):
    """The run is in no state for the request."""


class GaveWay(Cancelled):
    """Signal that the run made room for other work.  It continues when it is started again."""


class Controls:
    """Requests that wait for the end of a step.  Making the same one twice is making it once."""

    def __init__(self) -> None:
        self._asked: set[Request] = set()
        self._waits = self._ended = False
        self._changed = threading.Condition()

    def ask(self, request: Request) -> None:
        """Make a request.  Refused, with the reason, if the run cannot meet it."""
        with self._changed:
            if request in ("save", "preview") and self._waits:
                raise Refused("The training is paused. Continue it first.")
            if request in self._too_late():
                raise Refused("The training is about to finish.")
            self._asked.add(request)
            if request == "finish":
                self._asked.discard("pause")
            self._changed.notify_all()

    def withdraw(self, request: Request) -> None:
        """Take back a request that was not met yet; of a pause, also end it."""
        with self._changed:
            self._asked.discard(request)
            self._changed.notify_all()

    @property
    def pending(self) -> tuple[Request, ...]:
        """Requests that are not met yet, in the order in which they will be."""
        with self._changed:
            return self._in_order()

    @property
    def is_paused(self) -> bool:
        """Return True while the run waits and holds nothing on the device."""
        with self._changed:
            return self._waits

    def drain(self) -> tuple[Request, ...]:
        """Requests to meet now, in this order.  Those that end or pause the run stay until it has done so."""
        with self._changed:
            taken = self._in_order()
            self._asked -= {"save", "preview"}
            return taken

    def end(self) -> bool:
        """Refuse what the run can no longer meet, or return False: something was requested since the last `drain`."""
        with self._changed:
            self._ended = not self._asked & {"save", "preview"}
            return self._ended

    def wait(self, report: Report, paused: Progress) -> None:
        """Wait for the end of a pause, if there is one, and report `paused` until then.  GaveWay if asked to."""
        try:
            while self._hold():
                report(paused)
                with self._changed:
                    self._changed.wait_for(lambda: not self._is_held(), POLL_SECONDS)
        finally:
            with self._changed:
                self._waits = False
        if "give_way" in self.pending and "finish" not in self.pending:
            raise GaveWay(f"Stopped after step {paused.step} of {paused.total} for other work. Train again to continue "
                          "from here.")

    def _hold(self) -> bool:
        """Begin or continue the pause; False if there is none."""
        with self._changed:
            self._waits = self._is_held()
            return self._waits

    def _is_held(self) -> bool:
        return "pause" in self._asked and "give_way" not in self._asked

    def _too_late(self) -> tuple[Request, ...]:
        if "finish" in self._asked:
            return "save", "preview", "pause"
        return ("save", "preview") if self._ended else ()

    def _in_order(self) -> tuple[Request, ...]:
        return tuple(request for request in REQUESTS if request in self._asked)
