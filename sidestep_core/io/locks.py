"""One writer for each run and each dataset: a lock of the operating system, which ends with its process."""

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

PATIENCE_SECONDS = 1.0
"""A run that is only looked at is held for a moment."""

_LOCK = ".lock"
_HOLDER = ".lock.json"


@contextlib.contextmanager
def held(folder: Path, doing: str) -> Iterator[None]:
    """Hold the folder, which is made, for this block.  InUse names the process that holds it, and since when.

    `doing` completes "is being ...".
    """
    from filelock import FileLock, Timeout

    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise atomic.CannotWrite(f"The folder {folder} cannot be made ({error.strerror or error}). Make its place "
                                  "writable, or choose another.") from error
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=PATIENCE_SECONDS)
    except Timeout:
        raise InUse(f"{folder.name} is being {_holder(folder)}. Wait until that has ended, or stop it there.") from None
    except (OSError, NotImplementedError) as error:
        # Where nobody may write there is nothing to guard, and a finished run or a whole dataset can still be used.
        log.warning("%s cannot be locked (%s), so another program that writes there is not noticed.", folder, error)
    try:
        _tell_others(folder, doing)
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                (folder / _HOLDER).unlink(missing_ok=True)
                # Still held, so nobody can have it open but those who wait, and they see that it is gone.
                (folder / _LOCK).unlink(missing_ok=True)
        lock.release()
        if made:
            # Only goes where nothing was put there.
            with contextlib.suppress(OSError):
                folder.rmdir()


def _tell_others(folder: Path, doing: str) -> None:
    facts = {"doing": doing, "process": os.getpid(), "computer": platform.node(),
             "since": time.strftime("%Y-%m-%d %H:%M")}
    # The lock is what counts: a full disk is told by the first write that matters.
    with contextlib.suppress(OSError):
        (folder / _HOLDER).write_text(json.dumps(facts), encoding="utf-8")


def _holder(folder: Path) -> str:
    """'trained by another ComfyUI, process 12 since ...', as far as it is known."""
    try:
        facts = strict_json.as_object(strict_json.read(folder / _HOLDER), _HOLDER)
    except (OSError, ValueError):
        # It has just taken the lock, or is about to give it back.
        return "written by another ComfyUI"
    where = "" if facts.get("computer") == platform.node() else f" on {facts.get('computer')}"
    return (f"{facts.get('doing')} by another ComfyUI{where}, process {facts.get('process')} since "
            f"{facts.get('since')}")
