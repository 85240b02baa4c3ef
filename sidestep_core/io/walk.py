"""Files below a folder, listed within bounds: a folder of songs may turn out to be the root of a disk."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import DatasetError

MAX_ENTRIES = 200_000
MAX_DEPTH = 32
TICK_EVERY = 500
"""Entries between two calls of `tick`."""

OUTSIDE = "It is a link that leads out of the folder, so it is not followed. Copy what it leads to into the folder."

OnSkip = Callable[[Path, str], None]
"""Called with a skipped path and the reason."""
Tick = Callable[[], None]
MayRead = Callable[[Path], bool]
"""Returns True if a path named in a file may be accessed; all others count as missing."""


def walk(root: Path, on_skip: OnSkip = lambda path, reason: None, tick: Tick = lambda: None, *,
         hidden: bool = True) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder from `root` down with the sorted names of its files; no file is opened.

    Links are not followed out of `root`.  Folders deeper than MAX_DEPTH are skipped, and with `hidden` False those
    that begin with a dot.  `tick` is called every TICK_EVERY entries and may raise.  DatasetError beyond MAX_ENTRIES.
    """
    top = os.path.realpath(root)
    waiting, count = [(root, 0)], itertools.count(1)
    while waiting:
        folder, depth = waiting.pop()
        files, below = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    _bound(next(count), root, tick)
                    if leads_out(entry, top):
                        on_skip(folder / entry.name, OUTSIDE)
                    elif entry.is_dir(follow_symlinks=False):
                        below.append(entry.name)
                    elif not os.path.isdir(entry.path):  # noqa: PTH112 (a link to itself must not raise)
                        files.append(entry.name)
        except OSError as error:
            on_skip(folder, f"The folder cannot be read: {error.strerror}.")
            continue
        yield folder, sorted(files)
        if depth < MAX_DEPTH:
            waiting += [(folder / name, depth + 1) for name in sorted(below, reverse=True)
                        if hidden or not name.startswith(".")]
        elif below:
            on_skip(folder, f"Folders more than {MAX_DEPTH} levels down are not read.")


def _bound(count: int, root: Path, tick: Tick) -> None:
    if count % TICK_EVERY == 0:
        tick()
    if count > MAX_ENTRIES:
        raise DatasetError(f"The folder {root.name} holds more than {MAX_ENTRIES} files and folders. Choose the one "
                           "that your songs are in.")


def leads_out(entry: os.DirEntry[str], top: str) -> bool:
    """Return True for a link to a path outside `top`, which is a real path."""
    return entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(top)
