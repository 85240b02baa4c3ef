"""Report on a run to share, of what its folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...sidestep_core.adapters.lora import LoraConfig
from ...sidestep_core.adapters.registry import configs
from ...sidestep_core.io import strict_json
from ...sidestep_core.runs import curve, files, influence, previews, report, songs
from ...sidestep_core.runs.report import Preview, Report
from ...sidestep_core.runs.summary import RunSummary
from ...sidestep_core.training.config import TrainConfig
from ..host.wording import readable_json
from . import run_files


def report_of(run: str) -> tuple[str, str]:
    """Name of a run, and the HTML of its report.  NoRun if there is none."""
    folder = run_files.folder_of(run)
    found = RunSummary.from_json(readable_json(run_files.read(run).to_json()))
    index = run_files.curve_of(run)
    rows = curve.thinned(folder / files.METRICS, index, after=-1, points=run_files.POINTS).rows
    html = report.html(Report(run=found, rows=rows, songs=songs.read(folder),
                              influence=influence.read(folder / files.INFLUENCE), proof=_proof(folder),
                              previews=_previews(folder, found), defaults=_defaults(found)))
    return found.name, html


def _proof(folder: Path) -> Mapping[str, Any]:
    """Proof of the published adapter; empty if the run is not finished."""
    path = folder / files.FINISHED
    try:
        adapter = strict_json.as_object(strict_json.read(path), files.FINISHED).get("adapter") if path.is_file() else {}
        return strict_json.as_object(strict_json.as_object(adapter, "adapter").get("proof"), "proof")
    except strict_json.BadJson:
        return {}


def _previews(folder: Path, run: RunSummary) -> list[Preview]:
    sizes = [(step, path.stat().st_size) for step in run.previews
             if (path := previews.file(folder, step)) is not None]
    fitting = report.fitting(sizes, run.best and run.best[0])
    return [Preview(step=step, flac=_bytes(folder, step) if step in fitting else None) for step, _ in sizes]


def _bytes(folder: Path, step: int) -> bytes | None:
    path = previews.file(folder, step)
    return None if path is None else path.read_bytes()


def _defaults(run: RunSummary) -> Mapping[str, Mapping[str, Any]]:
    """Default settings of this kind of adapter, and of a training."""
    adapter = configs().get(run.kind, LoraConfig)
    return {"adapter": adapter().to_json(), "train": TrainConfig().to_json()}
