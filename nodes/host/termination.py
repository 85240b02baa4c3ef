"""Signals that end ComfyUI, such as Ctrl+C or a shutdown: what runs is stopped first, as by cancel, and kept.

Without this the process ends at once, in the middle of a step, and with it what was trained since the last checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import comfy.model_management

log = logging.getLogger(__name__)

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
PATIENCE_SECONDS = 90.0
"""Service managers kill after about so long themselves."""
ENDING_SECONDS = 15.0
"""Longest time in which the host ends after a signal."""

Handler = Callable[[int, FrameType | None], object] | int | None

_idle = threading.Event()
_idle.set()
_asked: set[int] = set()
_never = threading.Event()


@contextlib.contextmanager
def awaited() -> Iterator[None]:
    """A block that such a signal stops, and waits for.

    Then the thread goes no further while Python ends: the host would free the models, in C++ that waits for Python's
    lock, and a thread that waits for it at the end aborts the process.
    """
    _idle.clear()
    try:
        yield
    finally:
        _idle.set()
        if _asked:
            _never.wait(ENDING_SECONDS)


def listen() -> None:
    """Put this before what each signal does now.  Only the main thread can; elsewhere nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        return
    for name in NAMES:
        number = getattr(signal, name, None)
        if number is None:
            continue
        before = signal.getsignal(number)
        # One that is ignored, as under nohup, stays ignored; None was set by another language and cannot be called.
        if before is not signal.SIG_IGN and before is not None:
            signal.signal(number, functools.partial(_stop_then, before))


def _stop_then(before: Handler, number: int, frame: FrameType | None) -> None:
    """Stop what runs and wait until it is kept, then do what the signal did before; a second signal does that at once.
    """
    if not _idle.is_set() and number not in _asked:
        _asked.add(number)
        log.warning("Stopping, and keeping what is finished. The same once more ends at once.")
        comfy.model_management.interrupt_current_processing()
        _idle.wait(PATIENCE_SECONDS)
    if callable(before):
        before(number, frame)
        _asked.discard(number)  # the process goes on
    else:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
