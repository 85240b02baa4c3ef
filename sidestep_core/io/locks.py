"""One writer per run and per dataset: a lock of the operating system, which ends with its process."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import InUse
from . import atomic, strict_json

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 1.0
"""Time to wait for a lock; readers hold it for a moment."""

_LOCK = ".lock"
_HOLDER = ".lock.json"


@contextlib.contextmanager
def held(folder: Path, doing: str) -> Iterator[None]:
    """Lock the folder, created if missing, for the block.  InUse names the process that holds it, and since when.

    `doing` completes "is being ...".
    """
    from filelock import FileLock, Timeout

    created = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise atomic.CannotWrite(f"The folder {folder} cannot be made ({error.strerror or error}). Make its place "
                                  "writable, or choose another.") from error
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=TIMEOUT_SECONDS)
    except Timeout:
        raise InUse(f"{folder.name} is being {_holder(folder)}. Wait until that has ended, or stop it there.") from None
    except (OSError, NotImplementedError) as error:
        # A read-only folder needs no lock, and a finished run or a complete dataset can still be used.
        log.warning("%s cannot be locked (%s), so another program that writes there is not noticed.", folder, error)
    try:
        _write_holder(folder, doing)
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                (folder / _HOLDER).unlink(missing_ok=True)
                # Still locked: only waiting processes can have it open, and they notice that it is gone.
                (folder / _LOCK).unlink(missing_ok=True)
        lock.release()
        if created:
            # Succeeds only if the folder is empty.
            with contextlib.suppress(OSError):
                folder.rmdir()


def is_held(folder: Path) -> bool:
    """Return True if a process, this one or another, holds the lock of the folder."""
    from filelock import FileLock, Timeout

    path = folder / _LOCK
    if not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
    lock.release()
    return False


def _write_holder(folder: Path, doing: str) -> None:
    facts = {"doing": doing, "process": os.getpid(), "computer": platform.node(),
             "since": time.strftime("%Y-%m-%d %H:%M")}
    # Informative only: a full disk is reported by the first real write.
    with contextlib.suppress(OSError):
        (folder / _HOLDER).write_text(json.dumps(facts), encoding="utf-8")


def _holder(folder: Path) -> str:
    """Describe the holder as far as known: 'trained by another program, process 12 since ...'."""
    try:
        facts = strict_json.as_object(strict_json.read(folder / _HOLDER), _HOLDER)
    except (OSError, ValueError):
        # The lock has just been taken, or is about to be released.
        return "written by another program"
    where = "" if facts.get("computer") == platform.node() else f" on {facts.get('computer')}"
    return (f"{facts.get('doing')} by another program{where}, process {facts.get('process')} since "
            f"{facts.get('since')}")
