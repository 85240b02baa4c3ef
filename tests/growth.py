"""Growth of work with its size, timed at two sizes on one machine, so that its speed cancels out."""

from __future__ import annotations

import time
from collections.abc import Callable

FACTOR = 9
"""Ratio of the larger size to the smaller."""
MOST = 30.0
"""Limit between linear work, which grows by FACTOR, and quadratic work, which grows by 81."""
TRIES = 3


def growth(work: Callable[[int], object], size: int) -> float:
    """Measure the CPU time of `work` at FACTOR times the size, divided by that at the size; best of TRIES each.

    The larger size is tried again only where its time is over the limit.
    """
    small = max(min(_seconds(work, size) for _ in range(TRIES)), 1e-6)
    large = [_seconds(work, FACTOR * size)]
    while min(large) / small >= MOST and len(large) < TRIES:
        large.append(_seconds(work, FACTOR * size))
    return min(large) / small


def _seconds(work: Callable[[int], object], size: int) -> float:
    begun = time.process_time()
    work(size)
    return time.process_time() - begun
