"""Summary of a run, read from its folder: damaged, foreign and half-written folders have one too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..io import strict_json
from ..io.record import Record
from . import by_heart, files, previews, record
from .curve import Curve
from .record import RunRecord

UnderWay = Literal["running", "stopping", "paused"]
Status = Literal["running", "stopping", "paused", "stopped", "finished", "failed"]
MAX_BYTES = 4_000_000
MAX_NOTE = 4000


@dataclass(frozen=True, kw_only=True)
class RunSummary(Record):
    """Facts about a run for a list of runs; times in Unix seconds."""

    id: str
    name: str
    status: Status
    step: int = 0
    total: int = 0
    """Planned steps; 0 if not known."""
    started: float
    ended: float | None = None
    kind: str = ""
    songs: int = 0
    minutes: float = 0.0
    model: str = ""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of "adapter" and "train"."""
    loss: float | None = None
    """Newest smoothed loss."""
    best: tuple[int, float] | None = None
    """Step and loss of the best measurement after the first step."""
    heldout_first: float | None = None
    heldout_last: float | None = None
    measured_on: str = ""
    """"held_out" or "trained"."""
    sparkline: tuple[float, ...] = ()
    previews: tuple[int, ...] = ()
    """Steps that have a preview."""
    failed_previews: tuple[tuple[int, str], ...] = ()
    """Steps whose preview failed, each with the reason."""
    files: tuple[str, ...] = ()
    """Names of published adapters."""
    message: str = ""
    notices: tuple[str, ...] = ()
    note: str = ""
    by_heart: tuple[str, ...] = ()
    """Songs that were learned by heart when they were last watched."""
    node_id: str = ""
    workflow_id: str = ""
    has_workflow: bool = False


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Readable content of a folder, with a sentence about each damaged file."""

    identity: Mapping[str, Any] | None
    record: RunRecord | None
    finished: Mapping[str, Any] | None
    checkpoints: tuple[int, ...]
    damage: tuple[str, ...]


def signature(folder: Path) -> tuple[tuple[int, int], ...]:
    """Size and time of everything a summary depends on; equal while nothing has changed."""
    names = (".", files.RUN, files.RECORD, files.METRICS, files.FINISHED, files.NOTE, files.PREVIEWS,
             files.BY_HEART)
    return tuple(_stamp(folder / name) for name in names)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        facts = path.stat()
    except OSError:
        return (-1, -1)
    return facts.st_size, facts.st_mtime_ns


def read(folder: Path, curve: Curve, under_way: UnderWay | None = None) -> RunSummary:
    """Summarise the run in the folder, whose metrics are `curve`.  `under_way` is its state if it is being trained."""
    found = _found(folder)
    end, message = _end(found, curve, under_way)
    measured = curve.measurements()
    known = found.record or RunRecord(name=_name(folder.name), started=_modified(folder, files.RUN, files.METRICS))
    watched = by_heart.read(folder)
    settings = known.settings or {part: values for part in ("adapter", "train")
                                  if isinstance(values := (found.identity or {}).get(part), dict)}
    return RunSummary(
        id=folder.name, name=known.name, status=end, step=_step(found, curve, end), total=_total(known, settings),
        started=known.started, ended=None if under_way else known.ended or _modified(folder, files.METRICS, files.RUN),
        kind=str(settings.get("adapter", {}).get("kind", "")), songs=known.songs, minutes=known.minutes,
        model=known.model, settings=settings, loss=curve.loss, best=curve.best,
        heldout_first=measured[0][1] if measured else None, heldout_last=measured[-1][1] if measured else None,
        measured_on=curve.measured_on, sparkline=tuple(curve.sparkline()), previews=previews.made(folder),
        failed_previews=previews.failed(folder), files=known.files or _published(found), message=message,
        notices=known.notices, note=note(folder),
        by_heart=watched.by_heart if watched else (), node_id=known.node_id, workflow_id=known.workflow_id,
        has_workflow=(folder / files.WORKFLOW).is_file())


def _found(folder: Path) -> _Found:
    damage: list[str] = []

    def json_object(name: str) -> Mapping[str, Any] | None:
        path = folder / name
        try:
            if not path.is_file():
                return None
            return strict_json.as_object(strict_json.read(path, max_bytes=MAX_BYTES), name)
        except strict_json.BadJson as error:
            damage.append(f"{name} is damaged: {error}")
            return None

    identity, finished = json_object(files.RUN), json_object(files.FINISHED)
    if identity is None and not damage:
        damage.append(f"{files.RUN} is missing.")
    try:
        known = record.read(folder)
    except strict_json.BadJson as error:
        known = None
        damage.append(f"{files.RECORD} is damaged: {error}")
    return _Found(identity=identity, record=known, finished=finished, damage=tuple(damage),
                  checkpoints=tuple(sorted(_steps(folder, files.CHECKPOINT))))


def _end(found: _Found, curve: Curve, under_way: UnderWay | None) -> tuple[Status, str]:
    """Status of a run, and a sentence about its end."""
    if under_way:
        return under_way, ""
    if found.identity is None:
        return "failed", f"{' '.join(found.damage)} It cannot be continued; delete the run, or train again."
    if found.finished is not None:
        return "finished", str(found.finished.get("ended", ""))
    if found.record is None or not found.record.end:
        return "stopped", " ".join([*found.damage, _killed(found, curve)])
    # Without the mark of a complete run, its adapter is not published yet.
    end = "stopped" if found.record.end == "finished" else found.record.end
    return end, " ".join([*found.damage, found.record.message]).strip()


def _killed(found: _Found, curve: Curve) -> str:
    """Sentence about a run without a recorded end."""
    if not found.checkpoints:
        return "It ended before anything was saved. Run again to start over."
    kept = found.checkpoints[-1]
    return f"It ended after step {max(curve.last_step, kept)}; step {kept} is kept. Run again to continue from there."


def _step(found: _Found, curve: Curve, status: Status) -> int:
    """Newest step; of a run that is over, the one to continue from."""
    if status in ("stopped", "failed") and found.checkpoints:
        return found.checkpoints[-1]
    return max(curve.last_step, *found.checkpoints, 0)


def _total(known: RunRecord, settings: Mapping[str, Mapping[str, Any]]) -> int:
    train = settings.get("train", {})
    planned = train.get("max_steps") if not train.get("epochs") else 0
    return known.total or (planned if isinstance(planned, int) and not isinstance(planned, bool) else 0)


def _published(found: _Found) -> tuple[str, ...]:
    """Name of the published adapter of a finished run without a record."""
    adapter = (found.finished or {}).get("adapter")
    path = adapter.get("path") if isinstance(adapter, dict) else None
    return (path.replace("\\", "/").rpartition("/")[2],) if isinstance(path, str) else ()


def _name(run: str) -> str:
    """Name of the adapter in a run's id: before the key, and the number of another training of the same."""
    head, _, last = run.rpartition("-")
    if last.isdigit() and len(last) < 16:
        head, _, last = head.rpartition("-")
    return head or run


def note(folder: Path) -> str:
    """Note that a person wrote about the run."""
    try:
        return (folder / files.NOTE).read_bytes()[:4 * MAX_NOTE].decode("utf-8", "replace")[:MAX_NOTE]
    except OSError:
        return ""


def _steps(folder: Path, pattern: Any) -> list[int]:
    return [int(match[1]) for path in _children(folder) if (match := pattern.fullmatch(path.name))]


def _children(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in os.listdir(folder)]  # noqa: PTH208 (half the time of iterdir)
    except OSError:
        return []


def _modified(folder: Path, *names: str) -> float:
    """Time of the first of the files that exists, or of the folder."""
    for path in (*(folder / name for name in names), folder):
        _, time = _stamp(path)
        if time >= 0:
            return time / 1e9
    return 0.0


def answer(run: RunSummary) -> dict[str, Any]:
    """Return the summary as a page gets it."""
    content = run.to_json()
    del content["failed_previews"], content["notices"]
    return content | {
        "best": None if run.best is None else {"step": run.best[0], "loss": run.best[1]},
        "previews": [{"step": step, "message": message}
                     for step, message in sorted([*((step, "") for step in run.previews), *run.failed_previews])],
    }
