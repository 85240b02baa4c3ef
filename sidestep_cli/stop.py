"""Ctrl-C: once keeps the work and stops, twice ends at once.  The signal that a machine ends with is the first."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from sidestep_core.progress import Cancelled, Progress, Report

from .console import Output

STOPPING = "Stopping after this piece of work, and keeping it. Press Ctrl-C again to end at once."
STOPPED = 130
"""Exit code of a command that was stopped, with its work kept."""


@dataclass
class Stop:
    """Request to stop, made by a signal and met at the next report."""

    output: Output
    notice: str = STOPPING
    """Answer to the first signal."""
    follows: bool = False
    """True in a process that ends with its leader, not by itself."""
    asked: bool = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self.asked and number == signal.SIGINT:
            os._exit(STOPPED)
        self.asked = True
        if self.follows:
            return
        self.output.notice(self.notice)

    def reporting(self) -> Report:
        """Make the report that shows progress and raises Cancelled once a stop was asked for."""
        def report(progress: Progress) -> None:
            self.output.progress(progress)
            if self.asked and not self.follows:
                raise Cancelled("Stopped.")

        return report


@contextlib.contextmanager
def stoppable(output: Output, *, notice: str = STOPPING, follows: bool = False) -> Iterator[Stop]:
    """Let signals stop the work of the block."""
    stop = Stop(output, notice, follows)
    signals = [signal.SIGINT, signal.SIGTERM]
    before = [signal.signal(number, stop.handle) for number in signals]
    try:
        yield stop
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
