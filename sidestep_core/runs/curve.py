"""Curve of a run: an index of its metrics file, which grows with the file, and thinned rows.

Lines are searched, not parsed, so that a hundred thousand of them take a moment; only the rows of an answer are parsed.
"""

from __future__ import annotations

import logging
import math
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..io import strict_json

log = logging.getLogger(__name__)

Row = dict[str, float | int | str | None]

MAX_BYTES = 512_000_000
BLOCK = 1 << 22
SPARKLINE = 40
_STEP = re.compile(rb'"step":\s?(\d{1,15})(?:\.0)?[,}\s]')
_NUMBER = rb':\s?(-?\d[\d.eE+-]{0,30})[,}\s]'
_LOSS = re.compile(rb'"loss"' + _NUMBER)
_SMOOTHED = re.compile(rb'"smoothed"' + _NUMBER)
_HELDOUT = re.compile(rb'"heldout"' + _NUMBER)
_BEST = re.compile(rb'"best_step"' + _NUMBER)
_MEASURED_ON = re.compile(rb'"measured_on":\s?"(held_out|trained)"')
_NAME = re.compile(r"\w[\w.]{0,40}")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Index of the whole lines of a metrics file: one entry per line, in the order of the file."""

    file: tuple[int, int] = (0, 0)
    """Device and number of the file, which another one replaces when rows are removed."""
    consumed: int = 0
    last_line: bytes = b""
    offsets: array[int] = field(default_factory=lambda: array("q"))
    steps: array[int] = field(default_factory=lambda: array("q"))
    losses: array[float] = field(default_factory=lambda: array("d"))
    """Smoothed loss of a step; NaN in the rows of measurements."""
    heldout: array[float] = field(default_factory=lambda: array("d"))
    """Held-out loss; NaN in the rows of steps."""
    bests: array[float] = field(default_factory=lambda: array("d"))
    """Step of the best measurement so far, in the rows of measurements; else NaN."""
    measured_on: str = ""

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and loss of the measurement that the run took for the best, else of the lowest, after the first step."""
        trained = {step: value for step, value in self.measurements() if step > 0}
        chosen = next((int(step) for step in reversed(self.bests) if math.isfinite(step)), 0)
        step = chosen if chosen in trained else min(trained, key=lambda step: trained[step], default=None)
        return None if step is None else (step, trained[step])

    @property
    def last_step(self) -> int:
        return self.steps[-1] if self.steps else 0

    @property
    def loss(self) -> float | None:
        """Newest smoothed loss."""
        return next((value for value in reversed(self.losses) if math.isfinite(value)), None)

    def measurements(self) -> list[tuple[int, float]]:
        """List (step, held-out loss)."""
        return [(step, value) for step, value in zip(self.steps, self.heldout, strict=True) if math.isfinite(value)]

    def sparkline(self) -> list[float]:
        """Thin the smoothed losses evenly to at most SPARKLINE; of the first and the last step always."""
        values = [value for value in self.losses if math.isfinite(value)]
        if len(values) <= SPARKLINE:
            return values
        return [values[round(number * (len(values) - 1) / (SPARKLINE - 1))] for number in range(SPARKLINE)]


def read(path: Path, known: Curve | None = None) -> Curve:
    """Index the file; only what was added since `known`, if that is of the same file.  Empty if there is none."""
    try:
        with path.open("rb") as file:
            return _extended(file, _of(path), known or Curve())
    except FileNotFoundError:
        return Curve()


def _of(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_dev, facts.st_ino


def _extended(file: BinaryIO, identity: tuple[int, int], known: Curve) -> Curve:
    if known.file != identity or not _continues(file, known):
        known = Curve(file=identity)
    file.seek(known.consumed)
    lines = _Lines(known)
    for block in _blocks(file, known.consumed):
        lines.add(block)
    return lines.curve(identity) if lines.consumed > known.consumed else known


def _continues(file: BinaryIO, known: Curve) -> bool:
    """Check that the last known line is where it was: file systems use the numbers of files again."""
    file.seek(known.consumed - len(known.last_line))
    return file.read(len(known.last_line)) == known.last_line


def _blocks(file: BinaryIO, consumed: int) -> Iterator[bytes]:
    """Yield what follows in blocks of whole lines; a line without an end, as a crash leaves it, is left out."""
    rest = b""
    while consumed < MAX_BYTES and (block := file.read(BLOCK)):
        whole, end, rest = (rest + block).rpartition(b"\n")
        if whole or end:
            yield whole + end
        if len(rest) > strict_json.MAX_LINE:
            return
        consumed += len(block)


class _Lines:
    """Entries of an index under construction."""

    def __init__(self, known: Curve) -> None:
        self.consumed, self._last_line, self._measured_on = known.consumed, known.last_line, known.measured_on
        self._offsets, self._steps = known.offsets[:], known.steps[:]
        self._losses, self._heldout, self._bests = known.losses[:], known.heldout[:], known.bests[:]

    def add(self, block: bytes) -> None:
        """Add the lines of a block that begins where the last one ended."""
        offset, line = self.consumed, b""
        for line in block.splitlines(keepends=True):
            if found := _STEP.search(line):
                self._add(line, int(found[1]), offset)
            offset += len(line)
        self.consumed, self._last_line = offset, line

    def _add(self, line: bytes, step: int, offset: int) -> None:
        while self._steps and self._steps[-1] > step:  # a run that goes on from an earlier step repeats steps
            for column in (self._offsets, self._steps, self._losses, self._heldout, self._bests):
                column.pop()
        smoothed = _number(_SMOOTHED, line)
        heldout = _number(_HELDOUT, line) if b'"heldout"' in line else math.nan
        self._offsets.append(offset)
        self._steps.append(step)
        self._heldout.append(heldout)
        self._bests.append(math.nan if math.isnan(heldout) else _number(_BEST, line))
        self._losses.append(_number(_LOSS, line) if math.isnan(smoothed) else smoothed)
        if not math.isnan(heldout) and (found := _MEASURED_ON.search(line)):
            self._measured_on = found[1].decode()

    def curve(self, identity: tuple[int, int]) -> Curve:
        return Curve(file=identity, consumed=self.consumed, last_line=self._last_line, offsets=self._offsets,
                     steps=self._steps, losses=self._losses, heldout=self._heldout, bests=self._bests,
                     measured_on=self._measured_on)


def _number(pattern: re.Pattern[bytes], line: bytes) -> float:
    """Value of a number in a line; NaN if it is not there, or not finite."""
    found = pattern.search(line)
    try:
        value = float(found[1]) if found else math.nan
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


@dataclass(frozen=True, kw_only=True)
class Thinned:
    """Rows of a curve, one per step; of steps without a measurement, those that are a multiple of `stride`."""

    stride: int
    rows: tuple[Row, ...]


def thinned(path: Path, curve: Curve, *, after: int, until: int | None = None, points: int) -> Thinned:
    """Read about `points` rows between two steps: those with a held-out loss, the first and the last, and others
    evenly; without `until` to the end."""
    first = bisect_right(curve.steps, after)
    last = len(curve.steps) if until is None else bisect_right(curve.steps, until)
    stride, indices = _chosen(curve.steps[first:last], curve.heldout[first:last], points)
    rows: dict[int, Row] = {}
    if indices:
        with path.open("rb") as file:
            lines = [_line(file, curve.offsets[first + index]) for index in indices]
        for index, row in zip(indices, parsed(lines), strict=True):
            step = curve.steps[first + index]
            rows[step] = rows.get(step, {}) | row | {"step": step}
    return Thinned(stride=stride, rows=tuple(rows[step] for step in sorted(rows)))


def _line(file: BinaryIO, offset: int) -> bytes:
    file.seek(offset)
    return file.readline(strict_json.MAX_LINE)


def _chosen(steps: Sequence[int], heldout: Sequence[float], points: int) -> tuple[int, list[int]]:
    """Choose a stride, a power of two so that points stay while a run grows, and the indices of the rows."""
    if not steps:
        return 1, []
    stride, span = 1, steps[-1] - steps[0] + 1
    while min(span, len(steps)) > points * stride:
        stride *= 2
    measured = [step for step, value in zip(steps, heldout, strict=True) if math.isfinite(value)]
    # Thousands of measurements are thinned as well, but for the last.
    kept = {steps[0], steps[-1], *measured[::max(1, -(-len(measured) // points))], *measured[-1:]}
    return stride, [index for index, step in enumerate(steps) if step % stride == 0 or step in kept]


def parsed(lines: Sequence[bytes]) -> list[Row]:
    """Read the numbers of rows, and the songs that they were measured on; a damaged row is empty."""
    try:
        values = strict_json.loads(b"[" + b",".join(lines) + b"]", "The metrics")
        if len(values) == len(lines):
            return list(map(_row, values))
    except strict_json.BadJson:
        if len(lines) == 1:
            log.warning("A row of the metrics is damaged, and left out.")
            return [{}]
    return [{}] if len(lines) == 1 else [row for line in lines for row in parsed([line])]


def _row(values: strict_json.Json) -> Row:
    if not isinstance(values, dict):
        return {}
    return {name: value for name, value in values.items() if _NAME.fullmatch(name) and _is_shown(name, value)}


def _is_shown(name: str, value: Any) -> bool:
    if name == "measured_on":
        return value in ("held_out", "trained")
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300)
