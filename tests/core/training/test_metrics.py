"""The numbers of a run survive a crash, and go on as if there had been none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidestep_core.model.flow_matching import HELDOUT_TIMES
from sidestep_core.training.metrics import Metrics, keep_until, read, time_bin
from tests.tolerance import FP32

LOSSES = [1.0, 0.5, 0.75, 0.25, 0.3]


def write(path: Path, losses: list[float], *, after_step: int = 0) -> Metrics:
    metrics = Metrics(path, after_step=after_step)
    for step, loss in enumerate(losses, start=after_step + 1):
        metrics.add_step(step, {"loss": loss, "lr": 1e-4})
    return metrics


def test_every_number_is_read_back(tmp_path: Path) -> None:
    metrics = write(tmp_path / "run" / "metrics.jsonl", LOSSES)
    metrics.add_heldout(5, {"heldout": 0.125, "heldout_error": 0.5, "best_step": 4},
                        [(0.5, 0.1), (0.31, 0.2), (0.59, 0.4)])
    rows = read(tmp_path / "run" / "metrics.jsonl")
    assert [row["loss"] for row in rows[:-1]] == LOSSES
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 5]
    assert rows[-1] == {"step": 5, "heldout": 0.125, "heldout_error": 0.5, "best_step": 4, "heldout_t0.3": 0.2,
                        "heldout_t0.5": 0.25, "heldout_values": [0.1, 0.2, 0.4], "measured_on": "held_out"}


def test_returned_rows_are_written(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", after_step=0)
    first, last = metrics.add_step(1, {"loss": 1.0}), metrics.add_step(2, {"loss": 1.0})
    assert read(tmp_path / "metrics.jsonl") == [first, last]


def test_missing_file_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize("cut", range(1, 40, 6))
def test_torn_line_is_skipped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, LOSSES)
    before = read(path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert read(path) == before[:-1] if cut > 1 else before


def test_resumed_run_drops_later_rows(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, LOSSES).add_heldout(5, {"heldout": 9.0})
    write(path, LOSSES[2:], after_step=2)
    write(tmp_path / "undisturbed.jsonl", LOSSES)
    assert path.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()


def test_smoothing_keeps_a_constant(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", [0.7] * 30)
    assert [row["smoothed"] for row in read(tmp_path / "metrics.jsonl")] == pytest.approx([0.7] * 30, rel=FP32)


def test_smoothing_weighs_by_age(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", LOSSES)
    for count, row in enumerate(read(tmp_path / "metrics.jsonl"), start=1):
        weights = [0.95 ** (count - 1 - step) for step in range(count)]
        expected = sum(w * loss for w, loss in zip(weights, LOSSES, strict=False)) / sum(weights)
        assert row["smoothed"] == pytest.approx(expected, rel=FP32)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_numbers_are_not_written(tmp_path: Path, value: float) -> None:
    metrics = write(tmp_path / "metrics.jsonl", LOSSES)
    with pytest.raises(ValueError, match="JSON"):
        metrics.add_step(6, {"loss": 1.0, "gradient": value})
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines())


# Losses by time


@pytest.mark.parametrize(("t", "key"), [(0.0, "t0.1"), (0.19, "t0.1"), (0.21, "t0.3"), (0.5, "t0.5"), (0.79, "t0.7"),
                                        (0.81, "t0.9"), (1.0, "t0.9")])
def test_times_fall_into_nearest_bins(t: float, key: str) -> None:
    assert time_bin(t) == key
    assert key == f"t{min(HELDOUT_TIMES, key=lambda time: abs(time - t))}"


def test_losses_are_smoothed_per_bin(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl", after_step=0)
    first = metrics.add_step(1, {"loss": 1.0}, [(0.5, 2.0)])
    second = metrics.add_step(2, {"loss": 1.0}, [(0.9, 8.0), (0.5, 4.0), (0.45, 1.0)])
    assert {key: value for key, value in first.items() if key.startswith("t0")} == {"t0.5": 2.0}
    smoothed = 2.0 + 0.05 * 2.0
    smoothed += 0.05 * (1.0 - smoothed)
    assert {key: value for key, value in second.items() if key.startswith("t0")} == pytest.approx(
        {"t0.5": smoothed, "t0.9": 8.0}, rel=FP32)


def test_resumed_run_smooths_identically(tmp_path: Path) -> None:
    samples = [[(0.1 * number, 1.0 / number), (0.3, float(number))] for number in range(1, 9)]

    def write_steps(path: Path, steps: range) -> None:
        metrics = Metrics(path, after_step=steps.start)
        for step in steps:
            metrics.add_step(step + 1, {"loss": 1.0}, samples[step])

    write_steps(tmp_path / "undisturbed", range(8))
    for steps in (range(5), range(3, 8)):
        write_steps(tmp_path / "continued", steps)
    assert (tmp_path / "continued").read_bytes() == (tmp_path / "undisturbed").read_bytes()


def test_what_came_later_is_forgotten(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", LOSSES)
    kept = keep_until(tmp_path / "metrics.jsonl", 2)
    assert [row["step"] for row in kept] == [1, 2]
    assert read(tmp_path / "metrics.jsonl") == kept
