"""Curves: exact, thinned, quick, and whatever is in the file."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidestep_core.runs import curve
from sidestep_core.training import metrics
from tests.hostile import TEXTS
from tests.run_folders import rows, write_metrics

STEPS = 100_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def merged(found: list[dict[str, object]]) -> list[dict[str, object]]:
    steps: dict[object, dict[str, object]] = {}
    for row in found:
        steps[row["step"]] = steps.get(row["step"], {}) | row
    return list(steps.values())


def test_short_curve_is_whole(file: Path) -> None:
    write_metrics(file, 120)
    found = curve.thinned(file, curve.read(file), after=-1, points=2000)
    assert found.stride == 1
    assert list(found.rows) == merged(rows(120))


def test_curve_of_writer_is_read(file: Path) -> None:
    writer = metrics.Metrics(file, after_step=0)
    writer.add_heldout(0, {"heldout": 3.0}, [(0.1, 1.0), (0.5, 5.0)], measured_on="trained")
    for step in (1, 2):
        writer.add_step(step, {"loss": 2.5 / step, "lr": 1e-4}, [(0.1, 2.0)])
    index = curve.read(file)
    assert list(curve.thinned(file, index, after=-1, points=9).rows) == [
        {key: value for key, value in row.items() if key != metrics.VALUES} for row in merged(metrics.read(file))]
    assert (index.last_step, index.measured_on, index.measurements()) == (2, "trained", [(0, 3.0)])
    assert index.loss == pytest.approx(metrics.read(file)[-1]["smoothed"])


@pytest.mark.parametrize("points", [50, 333, 2000])
def test_long_curve_is_thinned(file: Path, points: int) -> None:
    write_metrics(file, 5000)
    found = curve.thinned(file, curve.read(file), after=-1, points=points)
    steps = [row["step"] for row in found.rows]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 5000)
    measured = {row["step"] for row in found.rows if "heldout" in row}
    assert measured >= {0, 5000}
    assert len(measured) == 101 or points == 50
    assert points / 2 <= len(steps) <= points + len(measured) + 2
    assert [row for row in merged(rows(5000)) if row["step"] in set(steps)] == list(found.rows)


def test_points_stay_while_run_grows(file: Path) -> None:
    write_metrics(file, 4000, every=10_000)
    before = {row["step"] for row in curve.thinned(file, curve.read(file), after=-1, points=500).rows}
    write_metrics(file, 4090, every=10_000)
    after = {row["step"] for row in curve.thinned(file, curve.read(file), after=-1, points=500).rows}
    assert before - {4000} <= after


def test_later_rows_are_asked_for(file: Path) -> None:
    write_metrics(file, 120)
    found = curve.thinned(file, curve.read(file), after=117, points=2000)
    assert [row["step"] for row in found.rows] == [118, 119, 120]
    assert curve.thinned(file, curve.read(file), after=120, points=2000).rows == ()


def test_part_is_finer_than_whole(file: Path) -> None:
    write_metrics(file, 4000, every=10_000)
    index = curve.read(file)
    whole = curve.thinned(file, index, after=-1, points=500)
    part = curve.thinned(file, index, after=999, until=1400, points=500)
    assert [row["step"] for row in part.rows] == list(range(1000, 1401))
    assert {row["step"]: row for row in whole.rows if 1000 <= row["step"] <= 1400}.items() <= {
        row["step"]: row for row in part.rows}.items()
    assert (whole.stride, part.stride) == (16, 1)
    assert curve.thinned(file, index, after=1400, until=999, points=500).rows == ()


def test_index_grows_with_file(file: Path) -> None:
    lines = [json.dumps(row).encode() + b"\n" for row in rows(200)]
    known = None
    for count in (1, 2, 90, 90, len(lines)):
        torn = lines[count][:20] if count < len(lines) else b""
        with file.open("r+b" if file.exists() else "wb") as opened:
            opened.write(b"".join(lines[:count]) + torn)
            opened.truncate()
        known = curve.read(file, known)
        fresh = curve.read(file)
        assert (known.steps, known.offsets, known.losses.tobytes(), known.heldout.tobytes()) == (
            fresh.steps, fresh.offsets, fresh.losses.tobytes(), fresh.heldout.tobytes())
        assert len(known.steps) == count


def test_unchanged_file_keeps_index(file: Path) -> None:
    write_metrics(file, 20)
    known = curve.read(file)
    assert curve.read(file, known) is known


def test_rewritten_file_is_read_again(file: Path) -> None:
    write_metrics(file, 100)
    known = curve.read(file)
    metrics.keep_until(file, 30)
    assert curve.read(file, known).last_step == 30
    write_metrics(file, 200)  # the same file, with another content
    file.write_bytes(file.read_bytes().replace(b'"loss": 1.0', b'"loss": 0.5'))
    assert curve.read(file, known).last_step == 200


def test_repeated_steps_replace_later_ones(file: Path) -> None:
    lines = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 3.0}, {"step": 2, "loss": 9.0}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = curve.thinned(file, curve.read(file), after=-1, points=10).rows
    assert [(row["step"], row["loss"]) for row in found] == [(1, 1.0), (2, 9.0)]


def test_missing_file_is_empty(file: Path) -> None:
    index = curve.read(file)
    assert (index.last_step, index.loss, index.sparkline(), index.measurements()) == (0, None, [], [])
    assert curve.thinned(file, index, after=-1, points=10).rows == ()


def test_sparkline_keeps_both_ends(file: Path) -> None:
    write_metrics(file, 1000)
    found = curve.read(file).sparkline()
    assert (len(found), found[0], found[-1]) == (curve.SPARKLINE, 1.0, 1 / 1000)


def test_hundred_thousand_steps_are_quick(file: Path) -> None:
    write_metrics(file, STEPS)
    started = time.process_time()
    index = curve.read(file)
    indexed = time.process_time() - started
    found = curve.thinned(file, index, after=-1, points=2000)
    answered = time.process_time() - started - indexed
    assert (index.last_step, found.stride) == (STEPS, 64)
    assert len({row["step"] for row in found.rows if "heldout" in row}) == 1 + 1000  # every second
    assert indexed < 3.0, indexed
    assert answered < 1.5, answered


@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS.keys())
def test_any_content_is_answered(file: Path, content: bytes) -> None:
    file.write_bytes(content + b"\n" + json.dumps({"step": 7, "loss": 1.0}).encode() + b"\n")
    index = curve.read(file)
    found = curve.thinned(file, index, after=-1, points=10)
    assert (index.last_step, found.rows[-1]["loss"]) == (7, 1.0)
    json.dumps(found.rows, allow_nan=False)


ANY = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
                   lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3))


@given(values=st.dictionaries(st.sampled_from(["loss", "smoothed", "heldout", "step", "measured_on", "a b", "é"])
                              | st.text(max_size=9), ANY, max_size=8), step=st.integers(-2, 10**20))
def test_any_row_fits_into_answer(tmp_path_factory: pytest.TempPathFactory, values: dict[str, object],
                                  step: int) -> None:
    file = tmp_path_factory.mktemp("any") / "metrics.jsonl"
    file.write_text(json.dumps({"step": step} | values) + "\n" + json.dumps({**values, "step": 3}) + "\n",
                    encoding="utf-8")
    index = curve.read(file)
    for row in curve.thinned(file, index, after=-1, points=10).rows:
        json.dumps(row, allow_nan=False).encode()
        assert all(value is None or isinstance(value, (int, float, str)) for value in row.values())
    assert all(math.isfinite(value) for value in index.sparkline())
