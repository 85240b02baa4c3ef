"""How work grows with its size: two sizes are timed on one machine, so that its speed has no part in the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable

FACTOR = 9
"""Of the larger size to the smaller."""
MOST = 30.0
"""Work in proportion to its size grows by FACTOR, work by the square of it by 81."""
TRIES = 3


def growth(work: Callable[[int], object], size: int) -> float:
    """CPU time of `work` at FACTOR times the size, over that at the size; the best of some tries for each."""
    return _seconds(work, FACTOR * size) / max(_seconds(work, size), 1e-6)


def _seconds(work: Callable[[int], object], size: int) -> float:
    found = []
    for _ in range(TRIES):
        begun = time.process_time()
        work(size)
        found.append(time.process_time() - begun)
    return min(found)
