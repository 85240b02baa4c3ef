"""Files read into the system's cache on a thread, so that opening them later need not wait for the disk."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

BLOCK = 1 << 22
SHARE = 0.5
"""Largest share of the free memory that is read: more would push out what was read first."""


@contextlib.contextmanager
def reading(files: Sequence[Path], free: int | None) -> Iterator[None]:
    """Read the files on a thread while the block does other work; the rest is not read once the block ends.

    `free` is the free memory in bytes; None reads nothing.  Reading releases Python's lock, so imports go on beside it.
    """
    done = threading.Event()
    left = int(SHARE * (free or 0))
    thread = threading.Thread(target=_read, args=(files, left, done), name="read-ahead", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _read(files: Sequence[Path], left: int, done: threading.Event) -> None:
    buffer = bytearray(BLOCK)
    # Whoever opens a file for its content explains an error better.
    with contextlib.suppress(OSError):
        for path in files:
            with path.open("rb", buffering=0) as file:
                while left > 0 and not done.is_set() and (count := file.readinto(buffer)):
                    left -= count
