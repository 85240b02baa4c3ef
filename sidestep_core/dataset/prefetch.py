"""Work on a thread of its own, one item ahead of the caller who uses what it makes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
Tick = Callable[[], None]
"""Called often during work; may raise to end it."""

PATIENCE = 0.25
"""Seconds between two ticks while the caller waits."""


class _CallerLeft(Exception):
    """Ends the work that nobody will take."""


@contextlib.contextmanager
def one_ahead(make: Callable[[Item, Tick], Made], items: Iterable[Item]) -> Iterator[Callable[[Tick], Made]]:
    """A function `take(tick)` that returns what `make` makes of each item in turn; an exception of `make` rises there.

    The next item is begun when the one before it is taken, so no more than two exist: one with the caller and one that
    is being made.  `take` calls its tick a few times a second while it waits.  `make` gets a tick of its own, which
    ends it when the block is left early; the thread has ended when the block has, however that ends.
    """
    left = iter(items)
    coming: list[Future[Made]] = []
    caller_left = threading.Event()

    def go_on() -> None:
        if caller_left.is_set():
            raise _CallerLeft

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="one-ahead") as thread:
        def begin() -> None:
            for item in left:
                coming.append(thread.submit(make, item, go_on))
                return

        def take(tick: Tick) -> Made:
            tick()
            while not wait(coming, PATIENCE).done:
                tick()
            made = coming.pop().result()
            begin()
            return made

        begin()
        try:
            yield take
        finally:
            caller_left.set()
