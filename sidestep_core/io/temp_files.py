"""Temporary names that identify the writing process, and removal of those whose process has ended."""

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
"""Age at which a temporary file counts as abandoned if its writer is on another computer, or its process number has
been reused."""

_OURS = re.compile(r"\.([0-9a-f]{4})-(\d+)-[0-9a-f]{6}\.tmp")


def temp_path(path: Path) -> Path:
    """Return a new sibling name that identifies this computer and process: `.host-process-random.tmp`."""
    # Short, because Windows allows 260 characters in all.
    return path.with_name(f".{_host()}-{os.getpid()}-{secrets.token_hex(3)}.tmp")


def final_folder(folder: Path) -> Path:
    """Return the folder for messages: its parent if its own name is temporary."""
    return folder.parent if _OURS.fullmatch(folder.name) else folder


@contextlib.contextmanager
def temp_folder(path: Path) -> Iterator[Path]:
    """Create a sibling folder of `path`, removed after the block unless it was renamed."""
    folder = temp_path(path)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def sweep(folder: Path) -> None:
    """Remove files of killed processes directly in a folder that others may be writing to; once per folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") and is_abandoned(Path(entry.path)):
                _remove(Path(entry.path))


def remove_all(folder: Path) -> None:
    """Remove all temporary files in and below a folder whose lock this process holds."""
    for path in folder.rglob(".*"):
        if _OURS.fullmatch(path.name):
            _remove(path)


def is_abandoned(path: Path) -> bool:
    """Return True for a temporary name whose writer has ended."""
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
