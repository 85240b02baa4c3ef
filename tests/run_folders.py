"""Run folders as trainings write them, without a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sidestep_core.runs import record
from sidestep_core.runs.record import RunRecord

IDENTITY = {"checkpoint": "c", "dataset": "d", "adapter": {"kind": "lora", "rank": 8},
            "train": {"max_steps": 100, "epochs": 0, "seed": 42}}


def rows(steps: int, *, every: int = 50) -> list[dict[str, Any]]:
    """Metrics of a training whose losses are 1 / step, and held-out losses twice that."""
    found: list[dict[str, Any]] = [{"step": 0, "heldout": 3.0, "heldout_t0.1": 3.0, "measured_on": "held_out"}]
    for step in range(1, steps + 1):
        found.append({"step": step, "loss": 1 / step, "gradient": 1.0, "lr": 1e-4, "epoch": step / 7,
                      "smoothed": 1 / step, "t0.1": 1.5, "t0.3": 1.25, "t0.5": 1.0, "t0.7": 0.75, "t0.9": 0.5})
        if step % every == 0:
            found.append({"step": step, "heldout": 2 / step, "heldout_t0.1": 1.0, "measured_on": "held_out"})
    return found


def write_metrics(path: Path, steps: int, *, every: int = 50) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(steps, every=every)), encoding="utf-8")


def write_run(folder: Path, *, steps: int = 60, checkpoints: tuple[int, ...] = (50,), ended: str = "",
              finished: bool = False, **facts: Any) -> Path:
    """Write the folder of a run of 100 steps that got to `steps`."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(IDENTITY), encoding="utf-8")
    write_metrics(folder / "metrics.jsonl", steps)
    for step in checkpoints:
        (folder / f"checkpoint-step-{step}").mkdir()
    if finished:
        (folder / "finished.json").write_text(json.dumps({"ended": "All 100 steps are made.", "adapter": {
            "path": f"/loras/{folder.name}.safetensors"}, "sha256": ""}), encoding="utf-8")
    known = {"name": "song", "started": 1000.0, "total": 100, "songs": 3, "minutes": 9.5, "model": "turbo",
             "end": ended, "node_id": "5", "workflow_id": "w"}
    written = RunRecord.from_json({**known, **facts})
    (folder / "summary.json").write_text(json.dumps(written.to_json()), encoding="utf-8")
    assert record.read(folder) == written
    return folder
