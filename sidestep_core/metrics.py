"""The numbers of a run: one JSON line per step in `metrics.jsonl`, smoothed losses, and the time that is left."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from . import storage, strict_json
from .flow import HELDOUT_TIMES

FILE = "metrics.jsonl"
SMOOTHING = 0.95
MOST_BYTES = 512_000_000
"""Of a metrics file: a million steps and more."""

log = logging.getLogger(__name__)


def read(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics file; a last line torn by a crash is left out."""
    if not path.is_file():
        return []
    rows: list[dict[str, float]] = []
    for line in strict_json.read_bytes(path, most=MOST_BYTES).splitlines():
        try:
            row = strict_json.typed(strict_json.loads(line, path.name), dict[str, float | None], path.name)
            if not float(row["step"]).is_integer():
                raise strict_json.BadJson(f"step must be a whole number, not {row['step']:g}.")
        except (strict_json.BadJson, KeyError, TypeError) as error:
            log.warning("%s is read up to line %d, which is damaged: %s", path.name, len(rows) + 1, error)
            break
        rows.append({**row, "step": int(row["step"])})
    return rows


def keep_until(path: Path, step: int) -> list[dict[str, float]]:
    """Forget what was measured after `step`; returns what is left."""
    return write(path, [row for row in read(path) if row["step"] <= step])


def write(path: Path, rows: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    """Make these the rows of the file."""
    kept = list(rows)
    storage.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    return kept


def time_bin(t: float) -> str:
    """Key of the bin that a time lies in: of width 0.2 around each of flow.HELDOUT_TIMES."""
    count = len(HELDOUT_TIMES)
    return f"t{HELDOUT_TIMES[min(int(t * count), count - 1)]}"


class Metrics:
    """Appends to a run's metrics file, continuing after the step the run resumes from."""

    def __init__(self, path: Path, *, after_step: int, total: int) -> None:
        self._path = path
        self._total = total
        self._first_step = after_step
        self._started = time.monotonic()
        self._average = self._weight = 0.0
        self._by_time: dict[str, float] = {}
        keys = [time_bin(t) for t in HELDOUT_TIMES]
        for row in keep_until(path, after_step):
            if "loss" in row:
                self._smooth(row["loss"])
                self._by_time = {key: row[key] for key in keys if key in row}

    def _smooth(self, loss: float) -> float:
        """Exponential moving average, corrected for its start at zero."""
        self._average = SMOOTHING * self._average + (1 - SMOOTHING) * loss
        self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
        return self._average / self._weight

    def _smooth_by_time(self, samples: Iterable[tuple[float, float]]) -> dict[str, float]:
        """The same per bin of time, from its first loss on: its state is only what the last row shows."""
        for t, loss in samples:
            key = time_bin(t)
            before = self._by_time.get(key, loss)
            self._by_time[key] = before + (1 - SMOOTHING) * (loss - before)
        return {key: self._by_time[key] for key in sorted(self._by_time)}

    def add_step(self, step: int, numbers: Mapping[str, float],
                 samples: Sequence[tuple[float, float]] = ()) -> dict[str, float]:
        """Write the row of a finished step (1-based), whose samples had these (time, loss); returns it with `smoothed`
        losses, overall and per bin of time, and `eta_seconds` for showing."""
        row = self._append({"step": step, **numbers, "smoothed": self._smooth(numbers["loss"]),
                            **self._smooth_by_time(samples)})
        per_step = (time.monotonic() - self._started) / (step - self._first_step)
        return {**row, "eta_seconds": per_step * (self._total - step)}

    def add_heldout(self, step: int, mean: float, by_time: Sequence[float] = ()) -> dict[str, float]:
        """Write the row of a held-out measurement after `step` finished steps."""
        times = zip(HELDOUT_TIMES, by_time, strict=bool(by_time))
        return self._append({"step": step, "heldout": mean, **{f"heldout_t{time}": loss for time, loss in times}})

    def _append(self, row: dict[str, float]) -> dict[str, float]:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        return row
