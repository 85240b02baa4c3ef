"""The files below a folder, listed within bounds: what is named as a folder of songs may be the root of a disk."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import DatasetError

MOST_ENTRIES = 200_000
MOST_DEPTH = 32
TICK_EVERY = 500
"""Entries between two calls of `tick`."""

OUTSIDE = "It is a link that leads out of the folder, so it is not followed. Copy what it leads to into the folder."

Tell = Callable[[Path, str], None]
"""Called with what is left out, and why."""
Tick = Callable[[], None]
MayRead = Callable[[Path], bool]
"""Whether a path that a file names may be looked at; all others are as if nothing were there."""


def walk(root: Path, tell: Tell = lambda path, reason: None, tick: Tick = lambda: None, *,
         hidden: bool = True) -> Iterator[tuple[Path, list[str]]]:
    """Each folder from `root` down with the sorted names of its files; no file is opened or looked at.

    Linked folders are not followed: what is in `root` is read there, and nothing outside of it; nor are links to files
    outside.  Folders deeper than MOST_DEPTH are left out, and with `hidden` False those that begin with a dot.  `tick`
    is called every so many entries and may raise.  Raises DatasetError beyond MOST_ENTRIES.
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
                        tell(folder / entry.name, OUTSIDE)
                    elif entry.is_dir(follow_symlinks=False):
                        below.append(entry.name)
                    elif not os.path.isdir(entry.path):  # noqa: PTH112 (a link to itself must not raise)
                        files.append(entry.name)
        except OSError as error:
            tell(folder, f"The folder cannot be read: {error.strerror}.")
            continue
        yield folder, sorted(files)
        if depth < MOST_DEPTH:
            waiting += [(folder / name, depth + 1) for name in sorted(below, reverse=True)
                        if hidden or not name.startswith(".")]
        elif below:
            tell(folder, f"Folders more than {MOST_DEPTH} levels down are not read.")


def _bound(count: int, root: Path, tick: Tick) -> None:
    if count % TICK_EVERY == 0:
        tick()
    if count > MOST_ENTRIES:
        raise DatasetError(f"The folder {root.name} holds more than {MOST_ENTRIES} files and folders. Choose the one "
                           "that your songs are in.")


def leads_out(entry: os.DirEntry[str], top: str) -> bool:
    """Whether an entry is a link to what is not in `top`, which is a real path."""
    return entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(top)
