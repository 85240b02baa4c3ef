"""Runs in ComfyUI's output folder as answers to the page, by their ids; what was read once is kept while it is true.

All calls are made in one thread, by `asked`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import folder_paths

from ...sidestep_core.errors import ConfigError, InUse
from ...sidestep_core.io import atomic, hashing, locks, strict_json
from ...sidestep_core.runs import curve, files, previews, summary
from ...sidestep_core.runs.curve import Curve
from ...sidestep_core.runs.summary import RunSummary, UnderWay
from ...sidestep_core.sentence import Sentence
from ..host import folders, live
from ..host.wording import readable_json
from .history import History, Point, Preview, Status, finite

Result = TypeVar("Result")

ENDS: Mapping[str, Status] = {"running": "running", "stopped": "cancelled", "finished": "finished", "failed": "failed"}
"""Status of a run that this process does not train -> its status on a node."""
MAX_KNOWN = 1000
MAX_WORKFLOW = 16_000_000
POINTS = 2000

_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="side-step-runs")
"""One, so that what is known needs no lock and a page leaves the processor to the training."""
_known: OrderedDict[str, _Known] = OrderedDict()


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What was read of a run, and what it was read from."""

    signature: tuple[object, ...]
    curve: Curve
    summary: RunSummary


async def asked(call: Callable[[], Result]) -> Result:
    """Make one of the calls below in their thread."""
    return await asyncio.get_running_loop().run_in_executor(_thread, call)


def answers() -> list[Mapping[str, object]]:
    """Every run, newest first."""
    states = live.states()
    runs = [_summary(folder, states.get(run)) for run, folder in files.run_folders(folders.runs_folder()).items()]
    return [_answer(run) for run in sorted(runs, key=lambda run: (-run.started, run.id))]


def answer(run: str) -> Mapping[str, object]:
    """One run.  NoRun if there is none."""
    return _answer(read(run))


def read(run: str) -> RunSummary:
    """Summary of a run.  NoRun if there is none."""
    return _summary(folder_of(run), live.states().get(run))


def history_of(node_id: str, workflow_id: str) -> History | None:
    """History of the newest run that a node of a workflow started, as if it had just ended; None without one."""
    runs = [_summary(folder, None) for folder in files.run_folders(folders.runs_folder()).values()]
    of_node = [run for run in runs if (run.node_id, run.workflow_id) == (node_id, workflow_id)]
    run = max(of_node, key=lambda run: run.started, default=None)
    if run is None:
        return None
    history = History(node_id=node_id, run=run.id, workflow=workflow_id, stage="train", status=ENDS[run.status],
                      step=run.step, total=run.total, training=(run.step, run.total), sentences=_end(run),
                      measured_on=run.measured_on)
    for row in curve.thinned(folder_of(run.id) / files.METRICS, curve_of(run.id), after=-1, points=POINTS).rows:
        point = Point(int(row["step"]), finite({key: value for key, value in row.items() if value is not None}))
        history.add_point(point)
        history.metrics |= point.metrics
    for step in run.previews:
        history.add_preview(Preview(step=step, file=preview(run.id, step)))
    for step, message in run.failed_previews:
        history.add_preview(Preview(step=step, message=message))
    return history


def _end(run: RunSummary) -> tuple[str, ...]:
    """Sentences about the end of a run, on its node."""
    there = _in_lora_folder(run)
    if run.status == "finished" and there:
        return (Sentence("{file} is in your LoRA list.", file=there[-1]), *run.notices)
    return (run.message,) if run.message else ()


def metrics(run: str, after: int, until: int, points: int) -> Mapping[str, object]:
    """The curve of a run between two steps, thinned.  NoRun if there is no such run."""
    index = curve_of(run)
    found = curve.thinned(folder_of(run) / files.METRICS, index, after=after, until=until, points=points)
    return {"id": run, "last_step": index.last_step, "stride": found.stride, "rows": list(found.rows)}


def curve_of(run: str) -> Curve:
    """Index of the metrics of a run.  NoRun if there is none."""
    read(run)
    return _known[run].curve


def preview(run: str, step: int) -> Path:
    """Audio file of a preview.  NoRun if there is none."""
    found = previews.file(folder_of(run), step)
    if found is None or not found.is_file():
        raise files.NoRun("This preview is gone.")
    return found


def adapters(run: str) -> list[Mapping[str, object]]:
    """Name, size and SHA-256 of each published adapter of a run.  NoRun if there is no such run."""
    paths = [(name, adapter(run, name)) for name in _in_lora_folder(read(run))]
    return [{"name": name, "size": path.stat().st_size, "sha256": hashing.hash_file(path)} for name, path in paths]


def adapter(run: str, name: str) -> Path:
    """File of a published adapter of a run.  NoRun if it has none of this name, or the file is gone."""
    # Looked up among the run's own, never joined: the name comes from a request.
    path = folder_paths.get_full_path("loras", name) if name in read(run).files else None
    if path is None:
        raise files.NoRun(f"The run has no adapter {name!r} in the LoRA folders.")
    return Path(path)


def workflow(run: str) -> bytes:
    """The workflow that started a run, as JSON.  NoRun if it was not kept."""
    path = folder_of(run) / files.WORKFLOW
    if not path.is_file():
        raise files.NoRun("The workflow of this run was not kept.")
    content = strict_json.read_bytes(path, max_bytes=MAX_WORKFLOW)
    strict_json.as_object(strict_json.loads(content, "The workflow of this run"), "The workflow of this run")
    return content


def write_note(run: str, text: str) -> None:
    """Keep a note about a run; an empty one removes it."""
    if len(text) > summary.MAX_NOTE:
        raise ConfigError(f"The note has {len(text)} characters; at most {summary.MAX_NOTE} are kept.")
    path = folder_of(run) / files.NOTE
    if text.strip():
        atomic.write_text(path, text.strip().encode("utf-8", "replace").decode())
    else:
        path.unlink(missing_ok=True)


def delete(run: str) -> None:
    """Delete a run's folder.  InUse while it is being trained."""
    if run in live.states():
        raise InUse("This run is being trained. Stop it first.")
    files.delete(folders.runs_folder(), run)
    _known.pop(run, None)


def folder_of(run: str) -> Path:
    """Folder of a run.  NoRun if there is none."""
    return files.run_folder(folders.runs_folder(), run)


def _summary(folder: Path, under_way: UnderWay | None) -> RunSummary:
    """Summary of a run, read again only if something in its folder has changed.

    Another ComfyUI, or a program without one, may be training it.
    """
    if under_way is None and locks.is_held(folder):
        under_way = "running"
    known = _known.get(folder.name)
    signature = (summary.signature(folder), under_way)
    if known is None or known.signature != signature:
        read = curve.read(folder / files.METRICS, known and known.curve)
        known = _Known(signature=signature, curve=read, summary=summary.read(folder, read, under_way))
        _known[folder.name] = known
    _known.move_to_end(folder.name)
    while len(_known) > MAX_KNOWN:
        _known.popitem(last=False)
    return known.summary


def _answer(run: RunSummary) -> Mapping[str, object]:
    """A run for the page, without places of the server; of its adapters those that are in the LoRA folders still."""
    return readable_json(summary.answer(run) | {"files": _in_lora_folder(run)})


def _in_lora_folder(run: RunSummary) -> list[str]:
    return [name for name in run.files if folder_paths.get_full_path("loras", name) is not None]
