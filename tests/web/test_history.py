"""The history that a reloaded page gets: bounded, evenly thinned, never without a held-out loss or the newest point."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.setup import PACK
from sidestep_core.progress import Progress


@pytest.fixture(scope="module")
def history() -> ModuleType:
    """nodes/routes/history.py, which is a part of a package that only ComfyUI can import."""
    spec = importlib.util.spec_from_file_location("sidestep_history", PACK / "nodes" / "routes" / "history.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def step(number: int, **metrics: float) -> Progress:
    """A finished training step."""
    return Progress(stage="train", step=number, total=100_000, metrics=metrics)


NUMBERS = st.floats() | st.integers() | st.booleans() | st.sampled_from([
    10**400, -10**400, numpy.float32("nan"), numpy.float32("inf"), numpy.float16(1.5), numpy.float64(1e300),
    numpy.int64(3), numpy.bool_(True)])


@given(loss=NUMBERS, more=st.dictionaries(st.text(max_size=9), NUMBERS, max_size=3), text=st.text(max_size=30))
def test_any_report_fits_into_event(history: ModuleType, loss: float, more: dict[str, float], text: str) -> None:
    run = history.History(node_id="7", run=text, workflow=text)
    run.update(Progress(stage="train", step=numpy.int64(3), total=9, message=text, notice=text,  # type: ignore[arg-type]
                        metrics={**more, "loss": loss}))
    run.add_preview(history.Preview(step=3, message=text))
    run.end("failed", text)
    for content in (run.take_event(), run.answer()):
        assert json.loads(json.dumps(content, allow_nan=False).encode())["message"] == text


def test_continued_run_is_not_training(history: ModuleType) -> None:
    run = history.History(node_id="7", run="a", workflow=None)
    run.update(step(3, loss=0.5))
    run.update(Progress(stage="preview", step=1, total=2, notice="Told once."))
    assert run.take_event()["training"] == (3, run.training[1])
    run.end("cancelled", "Stopped.")
    run.update(Progress(stage="load", step=0, total=1))
    assert (run.training, run.message, len(run.points)) == (None, "", 1)
    run.update(step(4, loss=0.25))
    assert run.training[0] == 4


def test_present_numbers_leave_the_curve(history: ModuleType) -> None:
    run = history.History(node_id="7", run="a", workflow=None)
    run.update(step(3, loss=0.5, eta_seconds=9.0, step_seconds=0.5, memory_used=1.0))
    event = run.take_event()
    assert event["points"] == [{"step": 3, "loss": 0.5}]
    assert event["metrics"]["step_seconds"] == 0.5


def test_requests_show_until_met(history: ModuleType) -> None:
    run = history.History(node_id="7", run="a", workflow=None)
    run.update(step(3, loss=0.5))
    run.request("Pausing after this step")
    run.update(step(3))
    assert (run.status, run.message) == ("running", "Pausing after this step")
    run.update(Progress(stage="pause", step=4, total=9, message="Paused at step 4."))
    assert (run.status, run.message, run.take_event()["status"]) == ("paused", "Paused at step 4.", "paused")
    run.update(Progress(stage="pause", step=4, total=9, message="Paused at step 4."))
    assert not run.changed
    run.stop("Stopping.", "What is done is kept.")
    assert run.message == "Stopping. What is done is kept."
    run.update(step(5))
    assert (run.status, run.message) == ("running", "")


def test_saved_steps_come_from_newest(history: ModuleType) -> None:
    run = history.History(node_id="7", run="a", workflow=None)
    for saved in ((10, 20), None, (20, 30), None):
        run.update(Progress(stage="train", step=30, total=90, saved=saved))
    assert run.take_event()["saved"] == (20, 30)


def test_elapsed_time_ends_with_run(history: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(history.time, "monotonic", lambda: now[0])
    run = history.History(node_id="7", run="a", workflow=None)
    now[0] = 130.0
    run.update(step(3, loss=0.5))
    assert run.take_event()["elapsed_seconds"] == 30.0
    run.end("cancelled", "Stopped.")
    now[0] = 999.0
    assert run.answer()["elapsed_seconds"] == 30.0
    run.update(step(4, loss=0.5))
    now[0] = 1004.0
    assert run.take_event()["elapsed_seconds"] == 5.0


def test_thinning_keeps_heldout_losses(history: ModuleType) -> None:
    run = history.History(node_id="4", run="r", workflow=None)
    for number in range(1, 50_001):
        run.update(step(number, loss=1.0, **({"heldout": 2.0} if number % 500 == 0 else {})))
        assert len(run.points) <= history.MAX_POINTS
    steps = [point.step for point in run.points]
    assert steps[-1] == 50_000
    assert len(steps) > history.MAX_POINTS / 3
    assert max(later - earlier for earlier, later in zip(steps, steps[1:], strict=False)) <= run.stride
    assert [point.step for point in run.points if "heldout" in point.metrics] == list(range(500, 50_001, 500))


def test_many_heldout_losses_stay_bounded(history: ModuleType) -> None:
    run = history.History(node_id="4", run="r", workflow=None)
    for number in range(1, 10_001):
        run.update(step(number, heldout=2.0))
    assert len(run.points) <= history.MAX_POINTS
    assert run.points[-1].step == 10_000


def test_resumed_run_replaces_repeated_steps(history: ModuleType) -> None:
    run = history.History(node_id="4", run="r", workflow=None)
    for number, loss in ((1, 0.1), (2, 0.2), (3, 0.3), (2, 0.25)):
        run.update(step(number, loss=loss))
    assert [(point.step, point.metrics["loss"]) for point in run.points] == [(1, 0.1), (2, 0.25)]


def test_numbers_of_step_are_merged(history: ModuleType) -> None:
    run = history.History(node_id="4", run="r", workflow=None)
    run.update(step(5, loss=0.5))
    run.update(step(5, heldout=0.7))
    assert [point.metrics for point in run.points] == [{"loss": 0.5, "heldout": 0.7}]


def test_newest_timestep_losses_are_kept(history: ModuleType) -> None:
    run = history.History(node_id="4", run="r", workflow=None)
    run.update(step(1, **{"loss": 0.5, "t0.1": 0.8, "t0.9": 0.4}))
    run.update(step(2, **{"loss": 0.5, "t0.1": 0.7}))
    run.update(step(2, **{"heldout": 0.6, "heldout_t0.5": 0.3}))
    answer = run.answer()
    assert answer["points"] == [{"step": 1, "loss": 0.5, "t0.1": 0.8, "t0.9": 0.4},
                                {"step": 2, "loss": 0.5, "t0.1": 0.7, "heldout": 0.6, "heldout_t0.5": 0.3}]
    assert {key: answer["metrics"][key] for key in ("t0.1", "t0.9", "heldout_t0.5")} == {
        "t0.1": 0.7, "t0.9": 0.4, "heldout_t0.5": 0.3}


def test_previews_are_found_by_step(history: ModuleType, tmp_path: Path) -> None:
    run = history.History(node_id="4", run="r", workflow=None)
    assert run.answer()["previews"] == []
    run.add_preview(history.Preview(step=100, message="Out of memory."))
    run.add_preview(history.Preview(step=0, file=tmp_path / "0.flac"))
    run.add_preview(history.Preview(step=100, file=tmp_path / "100.flac"))
    assert run.answer()["previews"] == [{"step": 0, "message": ""}, {"step": 100, "message": ""}]
    assert str(tmp_path) not in json.dumps(run.answer())
    assert run.preview_file(100) == tmp_path / "100.flac"
    assert run.preview_file(50) is None
    run.update(step(101, loss=0.5))
    assert len(run.answer()["previews"]) == 2


def test_first_and_newest_previews_stay(history: ModuleType) -> None:
    run = history.History(node_id="4", run="r", workflow=None)
    for number in range(0, 5000, 10):
        run.add_preview(history.Preview(step=number))
    assert len(run.previews) == history.MAX_PREVIEWS
    assert [run.previews[place].step for place in (0, 1, -1)] == [0, 5000 - 10 * (history.MAX_PREVIEWS - 1), 4990]


def test_non_finite_numbers_become_null(history: ModuleType) -> None:
    run = history.History(node_id="4", run="r", workflow=None)
    run.update(step(1, loss=math.nan, smoothed=math.inf, lr=1e-4))
    answer = json.loads(json.dumps(run.answer(), allow_nan=False))
    assert answer["points"] == [{"step": 1, "loss": None, "smoothed": None, "lr": 1e-4}]


def test_time_left_ends_with_run(history: ModuleType) -> None:
    run = history.History(node_id="4", run="r", workflow=None)
    run.update(step(1, loss=0.5, eta_seconds=60.0))
    run.update(step(1))
    run.update(Progress(stage="preview", step=1, total=9))
    assert run.answer()["eta_seconds"] == 60.0
    assert run.answer()["training"] == (1, 100_000)
    run.end("finished", "Done.")
    assert run.answer()["eta_seconds"] is None


def test_points_travel_with_next_event(history: ModuleType) -> None:
    run = history.History(node_id="4", run="r", workflow=None)
    for number in (1, 2, 3):
        run.update(step(number, loss=1 / number))
        run.update(step(number))
    run.update(Progress(stage="train", step=3, total=9, metrics={"heldout": 0.25}, measured_on="trained"))
    event = run.take_event()
    assert event["points"] == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 1 / 3},
                               {"step": 3, "heldout": 0.25}]
    assert (event["metrics"], event["measured_on"]) == ({"loss": 1 / 3, "heldout": 0.25}, "trained")
    assert not run.changed
    assert run.take_event()["points"] == []


def test_notice_is_shown_throughout(history: ModuleType) -> None:
    run = history.History(node_id="4", run="r", workflow=None)
    for _ in range(2):
        run.update(Progress(stage="load", step=0, total=1, message="Loading", notice="Warm-up takes 1 step."))
    assert run.message == "Loading"
    run.update(step(1, loss=0.5))
    assert run.message == "Warm-up takes 1 step."
    run.end("finished", "my_lora is in your LoRA list.")
    assert run.message == "my_lora is in your LoRA list. Warm-up takes 1 step."
    run.end("failed", "The disk is full.")
    assert run.message == "The disk is full."


def test_words_and_lists_are_left_out(history: ModuleType) -> None:
    row = {"step": 3, "heldout": 0.5, "measured_on": "held_out", "heldout_values": [0.25, 0.75]}
    assert history.finite(row) == {"step": 3.0, "heldout": 0.5}
