"""Record of a run in its folder: facts for people that no other file of the run holds.

Written at the start and at the end of a training, at each notice, and whenever an adapter is published.  It is no part
of the run's identity; a run without one can be read and continued as well.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import SideStepError
from ..io import atomic, strict_json
from ..io.record import Record
from ..progress import Progress, Report, was_stopped
from . import files
from .songs import MAX_SONGS, Song

log = logging.getLogger(__name__)

End = Literal["", "stopped", "finished", "failed"]
MAX_BYTES = 4_000_000
MAX_MESSAGE = 2000
MAX_NOTICES = 50


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Source of a training in a host: node, workflow, and the workflow's file."""

    node_id: str = ""
    workflow_id: str = ""
    workflow: str = ""
    """JSON of the workflow as its page shows it; empty if it is not known."""


NO_ORIGIN = Origin()


@dataclass(frozen=True, kw_only=True)
class RunRecord(Record):
    """Course of a run; times in Unix seconds."""

    name: str
    started: float
    """Time of the last start: a run that is continued starts again."""
    first_started: float = 0.0
    ended: float | None = None
    end: End = ""
    """Empty while the run is going on, or if its process was killed."""
    message: str = ""
    total: int = 0
    songs: int = 0
    minutes: float = 0.0
    model: str = ""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of "adapter" and "train", all of them, resolved for the model and the songs."""
    files: tuple[str, ...] = ()
    """Names of the published adapters, oldest first."""
    node_id: str = ""
    workflow_id: str = ""
    notices: tuple[str, ...] = ()
    """Notices of the training since its last start."""


def read(folder: Path) -> RunRecord | None:
    """Read the record of the run in the folder; None without one.  BadJson if it is damaged."""
    path = folder / files.RECORD
    if not path.is_file():
        return None
    return RunRecord.from_json(strict_json.read(path, max_bytes=MAX_BYTES), files.RECORD, allow_unknown=True)


def run_of(adapter: Path) -> Path | None:
    """Find the folder of the run that made an adapter file: around it, or in `runs` beside it; None if neither is."""
    around = adapter.parent.parent
    if (around / files.RUN).is_file():
        return around
    found = [(record.started, folder) for folder in files.run_folders(adapter.parent / files.RUNS).values()
             if (record := _read_or_none(folder)) is not None and adapter.name in record.files]
    return max(found)[1] if found else None


@contextlib.contextmanager
def kept(folder: Path, record: RunRecord, songs: Sequence[Song] = (), origin: Origin = NO_ORIGIN) -> Iterator[None]:
    """Record the start of a training, and after the block its end and reason."""
    _start(folder, record, songs, origin)
    try:
        yield
    except BaseException as end:
        _end(folder, "stopped" if was_stopped(end) else "failed", str(end))
        raise
    _end(folder, "finished", "")


def add_file(folder: Path, name: str) -> None:
    """Add a published adapter to the record of the run."""
    _change(folder, lambda record: replace(record, files=(*(file for file in record.files if file != name), name)))


def noting(folder: Path, report: Report) -> Report:
    """Pass reports on, and add their notices to the record of the run."""
    def noted(progress: Progress) -> None:
        if progress.notice:
            _change(folder, lambda record: _with_notice(record, progress.notice[:MAX_MESSAGE]))
        report(progress)

    return noted


def _with_notice(record: RunRecord, notice: str) -> RunRecord:
    known = record.notices
    return record if notice in known else replace(record, notices=(*known, notice)[:MAX_NOTICES])


def _start(folder: Path, record: RunRecord, songs: Sequence[Song], origin: Origin) -> None:
    earlier = _read_or_none(folder)
    record = replace(record, node_id=origin.node_id, workflow_id=origin.workflow_id, first_started=record.started)
    if earlier is not None:
        record = replace(record, files=earlier.files, first_started=earlier.first_started or earlier.started)
    with _optional(folder):
        _write(folder, record)
        atomic.write_json(folder / files.SONGS, [song.to_json() for song in songs[:MAX_SONGS]])
        if origin.workflow:
            atomic.write_text(folder / files.WORKFLOW, origin.workflow)


def _end(folder: Path, end: End, message: str) -> None:
    _change(folder, lambda record: replace(record, end=end, ended=time.time(), message=message[:MAX_MESSAGE]))


def _change(folder: Path, changed: Callable[[RunRecord], RunRecord]) -> None:
    record = _read_or_none(folder)
    if record is not None:
        with _optional(folder):
            _write(folder, changed(record))


def _write(folder: Path, record: RunRecord) -> None:
    atomic.write_json(folder / files.RECORD, record.to_json())


def _read_or_none(folder: Path) -> RunRecord | None:
    try:
        return read(folder)
    except strict_json.BadJson as error:
        log.warning("The record of %s is written again: %s", folder.name, error)
        return None


@contextlib.contextmanager
def _optional(folder: Path) -> Iterator[None]:
    """Log a failure to write: the record is for people, and the training goes on without it."""
    try:
        yield
    except (SideStepError, OSError, ValueError) as error:
        log.warning("The record of %s could not be written: %s", folder.name, error)
