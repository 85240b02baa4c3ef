"""Temporary names that tell who writes under them, and the removal of those under which nobody writes any more."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

ABANDONED_SECONDS = 24 * 60 * 60.0
"""Age at which a temporary file of another computer is taken for abandoned, and one whose process number is another
process's now."""

_OURS = re.compile(r"\.([0-9a-f]{4})-(\d+)-[0-9a-f]{6}\.tmp")


def temp_path(path: Path) -> Path:
    """A new name beside `path` that tells this computer and process: `.host-process-random.tmp`."""
    # Short, because Windows allows 260 characters in all.
    return path.with_name(f".{_host()}-{os.getpid()}-{secrets.token_hex(3)}.tmp")


def final_folder(folder: Path) -> Path:
    """The folder, or the one that it lies in where its own name is temporary: for telling people."""
    return folder.parent if _OURS.fullmatch(folder.name) else folder


@contextlib.contextmanager
def temp_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, which is gone after the block, unless it was renamed."""
    folder = temp_path(path)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def sweep(folder: Path) -> None:
    """Remove what killed processes had begun to write directly in a folder that others may be writing too; once."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and is_abandoned(Path(entry.path)):
                _remove(Path(entry.path))


def remove_all(folder: Path) -> None:
    """Remove everything that was begun in and below a folder whose lock this process holds."""
    for path in folder.rglob(".*"):
        if _OURS.fullmatch(path.name):
            _remove(path)


def is_abandoned(path: Path) -> bool:
    """Whether a file or folder has a temporary name, and its writer is no more."""
    ours = _OURS.fullmatch(path.name)
    if ours is None:
        return False
    if ours[1] == _host() and not _is_running(int(ours[2])):
        return True
    try:
        return time.time() - path.lstat().st_mtime > ABANDONED_SECONDS
    except OSError:
        return False


def _remove(path: Path) -> None:
    log.info("Removing %s, which was never finished.", path.name)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


@functools.cache
def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:4]


def _is_running(process: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
