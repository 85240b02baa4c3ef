"""Waiting for a server that does not answer: connections end, hosts restart, and work there goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ..console import Output
from .server import RemoteError, Unreachable

Result = TypeVar("Result")

RETRY_SECONDS = 600.0
"""Time for which a server that does not answer is asked again."""
PAUSES = (1.0, 2.0, 5.0, 10.0)
"""Seconds before the first attempts; the last one counts for all others."""


@dataclass
class Patience:
    """Attempts at requests, with the words for a person who waits."""

    output: Output
    tick: Callable[[], None]
    """Called several times a second; raises to stop."""
    outages: int = 0
    """Times that the server did not answer."""

    def call(self, request: Callable[[], Result]) -> Result:
        """Make a request until the server answers.  RemoteError after RETRY_SECONDS without an answer."""
        deadline, attempt = time.monotonic() + RETRY_SECONDS, 0
        while True:
            try:
                result = request()
                break
            except Unreachable as error:
                if time.monotonic() >= deadline:
                    raise RemoteError(f"{error} It did not answer for {RETRY_SECONDS / 60:.0f} minutes. What was "
                                      "started there may go on: the same command finds it.") from None
                if not attempt:
                    self.outages += 1
                    self.output.notice(f"{error} Trying again for {RETRY_SECONDS / 60:.0f} minutes.")
                self.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
                attempt += 1
        if attempt:
            self.output.notice("The server answers again.")
        return result

    def sleep(self, seconds: float) -> None:
        """Wait, and stop at once where that was asked for."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.tick()
            time.sleep(min(left, 0.2))
        self.tick()
