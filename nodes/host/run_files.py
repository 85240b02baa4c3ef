"""Runs in ComfyUI's output folder as answers to the page, by their ids; what was read once is kept while it is true."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import folder_paths

from ...sidestep_core.errors import ConfigError, InUse
from ...sidestep_core.io import atomic, strict_json
from ...sidestep_core.runs import curve, files, summary
from ...sidestep_core.runs.curve import Curve
from ...sidestep_core.runs.summary import RunSummary, UnderWay
from . import folders, live

log = logging.getLogger(__name__)

MAX_KNOWN = 1000
MAX_WORKFLOW = 16_000_000

_known: OrderedDict[str, _Known] = OrderedDict()


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What was read of a run, and what it was read from."""

    signature: tuple[object, ...]
    curve: Curve
    summary: RunSummary


def answers() -> list[Mapping[str, object]]:
    """Every run, newest first."""
    states = _states()
    runs = [_summary(folder, states.get(run)) for run, folder in files.run_folders(folders.runs_folder()).items()]
    return [_answer(run) for run in sorted(runs, key=lambda run: (-run.started, run.id))]


def answer(run: str) -> Mapping[str, object]:
    """One run.  NoRun if there is none."""
    return _answer(read(run))


def read(run: str) -> RunSummary:
    """Summary of a run.  NoRun if there is none."""
    return _summary(_folder(run), _states().get(run))


def newest_of(node_id: str, workflow_id: str) -> RunSummary | None:
    """Newest run that a node of a workflow started, or None."""
    states = _states()
    runs = [_summary(folder, states.get(run)) for run, folder in files.run_folders(folders.runs_folder()).items()]
    of_node = [run for run in runs if (run.node_id, run.workflow_id) == (node_id, workflow_id)]
    return max(of_node, key=lambda run: run.started, default=None)


def metrics(run: str, after: int, points: int) -> Mapping[str, object]:
    """The curve of a run after a step, thinned.  NoRun if there is no such run."""
    folder = _folder(run)
    _summary(folder, _states().get(run))
    known = _known[run].curve
    found = curve.thinned(folder / files.METRICS, known, after=after, points=points)
    return {"id": run, "last_step": known.last_step, "stride": found.stride, "rows": list(found.rows)}


def preview(run: str, step: int) -> Path:
    """Audio file of a preview.  NoRun if there is none."""
    found = summary.preview_file(_folder(run), step)
    if found is None or not found.is_file():
        raise files.NoRun("This preview is gone.")
    return found


def workflow(run: str) -> bytes:
    """The workflow that started a run, as JSON.  NoRun if it was not kept."""
    path = _folder(run) / files.WORKFLOW
    if not path.is_file():
        raise files.NoRun("The workflow of this run was not kept.")
    content = strict_json.read_bytes(path, max_bytes=MAX_WORKFLOW)
    strict_json.as_object(strict_json.loads(content, "The workflow of this run"), "The workflow of this run")
    return content


def write_note(run: str, text: str) -> None:
    """Keep a note about a run; an empty one removes it."""
    if len(text) > summary.MAX_NOTE:
        raise ConfigError(f"The note has {len(text)} characters; at most {summary.MAX_NOTE} are kept.")
    path = _folder(run) / files.NOTE
    if text.strip():
        atomic.write_text(path, text.strip().encode("utf-8", "replace").decode())
    else:
        path.unlink(missing_ok=True)


def delete(run: str) -> None:
    """Delete a run's folder.  InUse while it is being trained."""
    if run in _states():
        raise InUse("This run is being trained. Stop it first.")
    files.delete(folders.runs_folder(), run)
    _known.pop(run, None)


def _folder(run: str) -> Path:
    return files.run_folder(folders.runs_folder(), run)


def _states() -> Mapping[str, UnderWay]:
    return live.states()


def _summary(folder: Path, under_way: UnderWay | None) -> RunSummary:
    """Summary of a run, read again only if something in its folder has changed."""
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
    """A run for the page; of its adapters those that are in the LoRA folders still."""
    there = [name for name in run.files if folder_paths.get_full_path("loras", name) is not None]
    return summary.answer(run) | {"files": there}
