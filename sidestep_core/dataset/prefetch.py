"""Prefetching on a thread, one item ahead of the caller."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
Tick = Callable[[], None]
"""Called often during work; may raise to stop it."""

PATIENCE = 0.25
"""Seconds between two ticks while the caller waits."""


class _CallerLeft(Exception):
    """Stops work whose result nobody needs."""


@contextlib.contextmanager
def one_ahead(make: Callable[[Item, Tick], Made], items: Iterable[Item]) -> Iterator[Callable[[Tick], Made]]:
    """Yield a function `next_made(tick)` that returns `make(item)` for each item in turn, or raises its exception.

    The next item is started when the previous one is taken, so at most two exist: one with the caller and one in the
    making.  `next_made` calls its tick a few times a second while it waits.  `make` gets a tick of its own, which stops
    it if the block is left early; the thread ends with the block.
    """
    left = iter(items)
    coming: list[Future[Made]] = []
    caller_left = threading.Event()

    def go_on() -> None:
        if caller_left.is_set():
            raise _CallerLeft

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="one-ahead") as thread:
        def start_next() -> None:
            for item in left:
                coming.append(thread.submit(make, item, go_on))
                return

        def next_made(tick: Tick) -> Made:
            tick()
            while not wait(coming, PATIENCE).done:
                tick()
            made = coming.pop().result()
            start_next()
            return made

        start_next()
        try:
            yield next_made
        finally:
            caller_left.set()
