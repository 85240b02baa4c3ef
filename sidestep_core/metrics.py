"""The numbers of a run: one JSON line per step in `metrics.jsonl`, a smoothed loss, and the time that is left."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from . import storage

FILE = "metrics.jsonl"
SMOOTHING = 0.95


def read(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics file; a last line torn by a crash is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class Metrics:
    """Appends to a run's metrics file, continuing after the step the run resumes from."""

    def __init__(self, path: Path, *, after_step: int, total: int) -> None:
        kept = [row for row in read(path) if row["step"] <= after_step]
        storage.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._path = path
        self._total = total
        self._first_step = after_step
        self._started = time.monotonic()
        self._average = self._weight = 0.0
        for row in kept:
            if "loss" in row:
                self._smooth(row["loss"])

    def _smooth(self, loss: float) -> float:
        """Exponential moving average, corrected for its start at zero."""
        self._average = SMOOTHING * self._average + (1 - SMOOTHING) * loss
        self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
        return self._average / self._weight

    def add_step(self, step: int, numbers: Mapping[str, float]) -> dict[str, float]:
        """Write the row of a finished step (1-based); returns it with `smoothed`, and `eta_seconds` for showing."""
        row = self._append({"step": step, **numbers, "smoothed": self._smooth(numbers["loss"])})
        per_step = (time.monotonic() - self._started) / (step - self._first_step)
        return {**row, "eta_seconds": per_step * (self._total - step)}

    def add_heldout(self, step: int, loss: float) -> dict[str, float]:
        """Write the row of a held-out measurement after `step` finished steps."""
        return self._append({"step": step, "heldout": loss})

    def _append(self, row: dict[str, float]) -> dict[str, float]:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        return row
