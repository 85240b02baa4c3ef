"""Metrics of a run: one JSON line per step in `metrics.jsonl`, and smoothed losses."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from ..io import atomic, strict_json
from ..io.record import parse
from ..model.flow_matching import HELDOUT_TIMES
from ..runs import files

FILE = files.METRICS
SMOOTHING = 0.95
MAX_BYTES = 512_000_000
"""Limit of a metrics file: a million steps and more."""

log = logging.getLogger(__name__)

MEASURED_ON = "measured_on"
"""Key of the songs that `heldout` was measured on."""
VALUES = "heldout_values"
"""Key of the losses of a measurement's passes."""
MeasuredOn = Literal["held_out", "trained"]
LOSS_NAMES: Mapping[MeasuredOn, str] = {"held_out": "held-out loss", "trained": "loss of the trained songs"}
"""Name of the measured loss in messages."""
STEPS = {"step", "best_step"}
"""Keys of whole numbers."""
Row = dict[str, Any]
"""Numbers by name, a value of MeasuredOn under MEASURED_ON, and a list of numbers under VALUES."""


def read(path: Path) -> list[Row]:
    """Read the rows of a metrics file; a last line torn by a crash is left out."""
    if not path.is_file():
        return []
    rows: list[Row] = []
    for line in strict_json.read_lines(path, max_bytes=MAX_BYTES):
        try:
            row: dict[str, Any] = parse(strict_json.loads(line, path.name),
                                        dict[str, float | str | list[float] | None], path.name)
            words = [key for key, value in row.items()
                     if isinstance(value, (str, list)) and key != (MEASURED_ON if isinstance(value, str) else VALUES)]
            if words or row.get(MEASURED_ON, "trained") not in get_args(MeasuredOn):
                raise strict_json.BadJson(f"{', '.join(words) or MEASURED_ON} holds an unknown word.")
            for key in STEPS & row.keys() | {"step"}:
                if not float(row[key]).is_integer():
                    raise strict_json.BadJson(f"{key} must be a whole number, not {row[key]:g}.")
        except (strict_json.BadJson, KeyError, TypeError) as error:
            log.warning("%s is read up to line %d, which is damaged: %s", path.name, len(rows) + 1, error)
            break
        known = {key: value for key, value in row.items() if value is not None}
        rows.append({**known, **{key: int(row[key]) for key in STEPS & row.keys()}})
    return rows


def keep_until(path: Path, step: int, measured_step: int | None = None) -> list[Row]:
    """Remove rows after `step`, and held-out losses after `measured_step`, which will be measured again.

    Returns the rest.
    """
    last = step if measured_step is None else measured_step
    return write(path, [row for row in read(path) if row["step"] <= (last if "heldout" in row else step)])


def write(path: Path, rows: Iterable[Row]) -> list[Row]:
    """Replace the rows of the file."""
    kept = list(rows)
    atomic.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    return kept


def time_bin(t: float) -> str:
    """Key of the bin that a time lies in: of width 0.2 around each of HELDOUT_TIMES."""
    count = len(HELDOUT_TIMES)
    return f"t{HELDOUT_TIMES[min(int(t * count), count - 1)]}"


class Metrics:
    """Writer of a run's metrics file, continuing after the step that the run resumes from."""

    def __init__(self, path: Path, *, after_step: int, measured_step: int | None = None) -> None:
        self._path = path
        self._unwritten: list[Row] = []
        self.failure = ""
        """Message if rows could not be written; they are kept, and written before the next ones."""
        self._average = self._weight = 0.0
        self._by_time: dict[str, float] = {}
        keys = [time_bin(t) for t in HELDOUT_TIMES]
        for row in keep_until(path, after_step, measured_step):
            if "loss" in row:
                self._smooth(row["loss"])
                self._by_time = {key: row[key] for key in keys if key in row}

    def _smooth(self, loss: float) -> float:
        """Update the moving average; return it corrected for its start at zero."""
        self._average = SMOOTHING * self._average + (1 - SMOOTHING) * loss
        self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
        return self._average / self._weight

    def _smooth_by_time(self, samples: Iterable[tuple[float, float]]) -> dict[str, float]:
        """Update the moving averages per bin of time, from their first losses on; the last row holds their state."""
        for t, loss in samples:
            key = time_bin(t)
            before = self._by_time.get(key, loss)
            self._by_time[key] = before + (1 - SMOOTHING) * (loss - before)
        return {key: self._by_time[key] for key in sorted(self._by_time)}

    def add_step(self, step: int, numbers: Mapping[str, float],
                 samples: Sequence[tuple[float, float]] = ()) -> dict[str, float]:
        """Write the row of a finished step (1-based) with these (time, loss) per sample.

        Returns it with `smoothed` losses, overall and per bin of time.
        """
        return self._write_row({"step": step, **numbers, "smoothed": self._smooth(numbers["loss"]),
                            **self._smooth_by_time(samples)})

    def add_heldout(self, step: int, numbers: Mapping[str, float], samples: Sequence[tuple[float, float]] = (), *,
                    measured_on: MeasuredOn = "held_out") -> dict[str, float]:
        """Write the row of a measurement after `step` finished steps, with these (time, loss) per pass.

        Returns its numbers, with the mean per bin of time.
        """
        bins: dict[str, list[float]] = {}
        for t, loss in samples:
            bins.setdefault(f"heldout_{time_bin(t)}", []).append(loss)
        row = {"step": step, **numbers, **{key: statistics.fmean(bins[key]) for key in sorted(bins)}}
        self._write_row({**row, VALUES: [loss for _, loss in samples], MEASURED_ON: measured_on})
        return row

    def _write_row(self, row: Row) -> Row:
        """Write the row after those that could not be written before.  A failure never ends a training."""
        self._unwritten.append(row)
        self.flush()
        return row

    def flush(self) -> None:
        """Write the rows that could not be written before."""
        try:
            while self._unwritten:
                self._append(self._unwritten[0])
                del self._unwritten[0]
            self.failure = ""
        except OSError as error:
            self.failure = (f"{self._path.name} cannot be written ({error.strerror or error}). Training goes on; its "
                            "numbers follow when there is room.")

    def _append(self, row: Row) -> Row:
        """Write one row whole or, on an OSError, not at all."""
        with self._path.open("a", encoding="utf-8") as file:
            end = file.tell()
            try:
                file.write(json.dumps(row, allow_nan=False) + "\n")
                file.flush()
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self._path, end)
                raise
        return row
