"""The numbers of a run survive a crash, and go on as if there had been none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidestep_core.metrics import Metrics, read
from tests.tolerance import FP32

LOSSES = [1.0, 0.5, 0.75, 0.25, 0.3]


def write(path: Path, losses: list[float], *, after_step: int = 0) -> Metrics:
    metrics = Metrics(path, after_step=after_step, total=10)
    for step, loss in enumerate(losses, start=after_step + 1):
        metrics.add_step(step, {"loss": loss, "lr": 1e-4})
    return metrics


def test_every_number_is_read_back(tmp_path: Path) -> None:
    metrics = write(tmp_path / "run" / "metrics.jsonl", LOSSES)
    metrics.add_heldout(5, 0.125)
    rows = read(tmp_path / "run" / "metrics.jsonl")
    assert [row["loss"] for row in rows[:-1]] == LOSSES
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 5]
    assert rows[-1] == {"step": 5, "heldout": 0.125}


def test_what_is_shown_is_what_is_written_and_the_time_left(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", after_step=0, total=2)
    first, last = metrics.add_step(1, {"loss": 1.0}), metrics.add_step(2, {"loss": 1.0})
    assert first.pop("eta_seconds") > 0
    assert last.pop("eta_seconds") == 0
    assert read(tmp_path / "metrics.jsonl") == [first, last]


def test_a_file_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_a_line_torn_by_a_crash_is_left_out(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, LOSSES)
    before = read(path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert read(path) == before[:-1] if cut > 1 else before


def test_a_continued_run_forgets_what_it_will_do_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, LOSSES).add_heldout(5, 9.0)
    write(path, LOSSES[2:], after_step=2)
    write(tmp_path / "undisturbed.jsonl", LOSSES)
    assert path.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


def test_smoothing_starts_at_the_first_loss_and_keeps_a_constant(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", [0.7] * 30)
    assert [row["smoothed"] for row in read(tmp_path / "metrics.jsonl")] == pytest.approx([0.7] * 30, rel=FP32)


def test_smoothing_weighs_a_step_by_its_age(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", LOSSES)
    for count, row in enumerate(read(tmp_path / "metrics.jsonl"), start=1):
        weights = [0.95 ** (count - 1 - step) for step in range(count)]
        expected = sum(w * loss for w, loss in zip(weights, LOSSES, strict=False)) / sum(weights)
        assert row["smoothed"] == pytest.approx(expected, rel=FP32)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_no_browser_reads_is_not_written(tmp_path: Path, value: float) -> None:
    metrics = write(tmp_path / "metrics.jsonl", LOSSES)
    with pytest.raises(ValueError, match="JSON"):
        metrics.add_step(6, {"loss": 1.0, "gradient": value})
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
