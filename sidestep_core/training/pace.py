"""Remaining time of a run: steps at their recent pace, and other work at its measured cost."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal

from .config import ResolvedConfig

RECENT = 50
"""Number of remembered durations of each kind of work."""

Work = Literal["step", "heldout", "save", "preview"]


class Pace:
    """Durations of a run's steps, measurements, saves and previews."""

    def __init__(self, config: ResolvedConfig, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._every: dict[Work, int] = {"step": 1, "heldout": config.heldout_every, "save": config.save_every,
                                        "preview": config.preview_every}
        self._seconds: dict[Work, deque[float]] = {work: deque(maxlen=RECENT) for work in self._every}
        self._clock = clock
        self._warm = False

    @contextlib.contextmanager
    def measured(self, work: Work) -> Iterator[None]:
        """Time the work inside the block."""
        began = self._clock()
        yield
        if work == "step" and not self._warm and self._seconds["step"]:
            # The first step also allocates and chooses kernels; the second is like all others.
            self._seconds["step"].clear()
            self._warm = True
        self._seconds[work].append(self._clock() - began)

    @property
    def step_seconds(self) -> float:
        """Recent seconds per step; 0 before the first."""
        return statistics.median(self._seconds["step"]) if self._seconds["step"] else 0.0

    @property
    def is_warm(self) -> bool:
        """True once the steps are at their usual pace."""
        return self._warm

    def seconds_left(self, step: int) -> float:
        """Seconds from the end of `step` to the end of the run; work that was never timed counts as 0."""
        return sum(statistics.median(seconds) * self._due(work, step)
                   for work, seconds in self._seconds.items() if seconds)

    def _due(self, work: Work, step: int) -> int:
        """Number of times that `work` is due after `step`; the last step is always measured and saved."""
        every = self._every[work]
        due = self._total // every - step // every if every > 0 else 0
        unscheduled_end = every <= 0 or self._total % every != 0
        return due + (work in ("heldout", "save") and step < self._total and unscheduled_end)
