"""The host's log as an answer: it logs what it could not do, and goes on as if it had done it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from ...sidestep_core.device import is_out_of_memory

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_one_at_a_time = threading.RLock()
"""The level of the root logger is one for all threads."""


def answer(work: Callable[[], Result]) -> Result | None:
    """Call a function of the host; return None if it logs a warning or an error, or raises one.

    Those do not reach the log, where they would stand without a context: the caller reports what is not used.  Out
    of memory and exceptions that are no Exception are raised.
    """
    found: Result | None = None
    with _Listening() as caught:
        try:
            found = work()
        except Exception as error:  # noqa: BLE001 (another program's; whatever it is, the host cannot do this)
            if isinstance(error, MemoryError) or is_out_of_memory(error):
                raise
            log.debug("ComfyUI cannot do this.", exc_info=True)
    for sentence in caught.messages:
        log.debug("ComfyUI: %s", sentence)
    return None if caught.messages else found


class _Listening(logging.Filter):
    """Filter that keeps this thread's records on the root logger from warnings on, at every --verbose level."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self._thread = threading.get_ident()
        self._level = logging.NOTSET

    def filter(self, record: logging.LogRecord) -> bool:
        if threading.get_ident() != self._thread:
            return record.levelno >= self._level
        if record.levelno >= logging.WARNING:
            self.messages.append(record.getMessage())
            return False
        return True

    def __enter__(self) -> _Listening:
        _one_at_a_time.acquire()
        root = logging.getLogger()
        self._level = root.level
        root.addFilter(self)
        if self._level > logging.WARNING:
            root.setLevel(logging.WARNING)
        return self

    def __exit__(self, *error: object) -> None:
        root = logging.getLogger()
        if self._level > logging.WARNING:
            root.setLevel(self._level)
        root.removeFilter(self)
        _one_at_a_time.release()
