"""The pure functions behind the panel, run by the browser that runs them for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from demo.server import PACK_NAME, ComfyUI


@pytest.fixture(scope="module")
def page(browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """A page of the server without ComfyUI's own code in it."""
    with browser.new_context() as context:
        opened = context.new_page()
        opened.goto(f"{server.address}/extensions/{PACK_NAME}/progress/loss_chart.js")
        yield opened


def call(page: Page, module: str, function: str, *arguments: Any) -> Any:
    """Result of a function of a module of the pack."""
    return page.evaluate("async ([url, name, values]) => (await import(url))[name](...values)",
                         [f"/extensions/{PACK_NAME}/progress/{module}.js", function, arguments])


def test_line_breaks_at_missing_numbers(page: Page) -> None:
    points = [{"step": 0, "loss": 4}, {"step": 1, "loss": 2}, {"step": 2, "loss": None}, {"step": 4, "loss": 0}]
    path = call(page, "loss_chart", "line", points, "loss", {"x": [0, 4], "y": [0, 4]})
    assert path == "M0.00 0.00L25.00 50.00M100.00 100.00"


def test_outliers_stay_inside_the_box(page: Page) -> None:
    points = [{"step": 0, "loss": 99}, {"step": 1, "loss": -99}]
    assert call(page, "loss_chart", "line", points, "loss", {"x": [0, 1], "y": [0, 1]}) == "M0.00 0.00L100.00 100.00"


def test_rare_numbers_are_dotted(page: Page) -> None:
    points = [{"step": 0, "heldout": 1}, {"step": 1, "loss": 1}, {"step": 2, "heldout": 0}]
    box = {"x": [0, 2], "y": [0, 1]}
    assert call(page, "loss_chart", "line", points, "heldout", box) == "M0.00 0.00L100.00 100.00"
    assert call(page, "loss_chart", "dots", points, "heldout", box) == "M0.00 0.00h0M100.00 100.00h0"


def test_one_spike_keeps_the_scale(page: Page) -> None:
    points = [{"step": step, "loss": 1 + step % 2 / 10} for step in range(200)] + [{"step": 200, "loss": 1e6}]
    low, high = call(page, "loss_chart", "ranges", points)["y"]
    assert 0.9 < low < 1
    assert 1.1 < high < 1.2


@pytest.mark.parametrize("points", [[], [{"step": 3, "lr": 1}], [{"step": 3, "loss": None}]])
def test_empty_curve_has_no_range(page: Page, points: list[dict[str, float | None]]) -> None:
    assert call(page, "loss_chart", "ranges", points) is None


@pytest.mark.parametrize("points", [[{"step": 3, "loss": 0}], [{"step": 3, "loss": 0.5}], [{"step": 3, "loss": -2}]])
def test_single_point_gets_a_range(page: Page, points: list[dict[str, float]]) -> None:
    found = call(page, "loss_chart", "ranges", points)
    assert found["y"][0] <= points[0]["loss"] < found["y"][1]
    assert call(page, "loss_chart", "ticks", found["y"])


@pytest.mark.parametrize(("low", "high", "labels"), [
    (0.21, 1.04, ["0.4", "0.6", "0.8", "1.0"]), (0, 3.5, ["0", "1", "2", "3"]), (0.0011, 0.0019, None)])
def test_ticks_are_round_numbers(page: Page, low: float, high: float, labels: list[str] | None) -> None:
    found = [tick["label"] for tick in call(page, "loss_chart", "ticks", [low, high])]
    assert found == labels if labels else 3 <= len(found) <= 6


@pytest.mark.parametrize(("seconds", "text"), [
    (None, ""), (20, "less than a minute left"), (58, "about 1 min left"), (720, "about 12 min left"),
    (7500, "about 2 h 5 min left"), (7199, "about 2 h 0 min left"), (400_000, "about 5 days left")])
def test_time_left_is_in_words(page: Page, seconds: float | None, text: str) -> None:
    assert call(page, "progress", "timeLeft", seconds) == text


def test_new_run_starts_new_curve(page: Page) -> None:
    def event(run: str, step: int) -> dict[str, Any]:
        return {"run": run, "stage": "train", "status": "running", "step": step, "total": 9, "message": "",
                "metrics": {"loss": 1.0 / step}, "points": [{"step": step, "loss": 1.0 / step}], "previews": []}

    state = None
    for step in (1, 2, 3, 2):
        state = call(page, "progress", "advance", state, event("a", step))
    assert [point["step"] for point in state["points"]] == [1, 2]
    assert [point["step"] for point in call(page, "progress", "advance", state, event("b", 7))["points"]] == [7]


def test_previews_are_kept_per_run(page: Page) -> None:
    def event(run: str, *previews: tuple[int, str]) -> dict[str, Any]:
        return {"run": run, "stage": "train", "status": "running", "step": 9, "total": 9, "message": "", "metrics": {},
                "points": [], "previews": [{"step": step, "message": message} for step, message in previews]}

    state = None
    for previews in ([(20, "failed")], [(0, "")], [], [(20, "")]):
        state = call(page, "progress", "advance", state, event("a", *previews))
    assert state["previews"] == [{"step": 0, "message": ""}, {"step": 20, "message": ""}]
    assert call(page, "progress", "advance", state, event("b"))["previews"] == []


def test_timestep_losses_become_bars(page: Page) -> None:
    points = [{"step": 1, "t0.1": 0.9, "t0.9": 0.6}, {"step": 2, "t0.1": 0.8}]
    bins = call(page, "time_bins", "timeBins", {"metrics": {"heldout_t0.9": 0.4}, "points": points})
    assert [bin["centre"] for bin in bins] == ["0.1", "0.3", "0.5", "0.7", "0.9"]
    assert [bin["bar"] for bin in bins] == pytest.approx([100, None, None, None, 75])
    assert [bin["dot"] for bin in bins] == pytest.approx([None, None, None, None, 50])
    assert call(page, "time_bins", "timeBins", {"metrics": {"loss": 1}, "points": []}) == []


@pytest.mark.parametrize(("measured_on", "label"), [
    ("trained", "Trained songs"), ("held_out", "Held-out"), ("", "Measured")])
def test_label_names_measured_songs(page: Page, measured_on: str, label: str) -> None:
    output = {"sidestep": [{"adapter": "a.safetensors", "heldout_last": 0.5, "measured_on": measured_on}]}
    state = call(page, "progress", "fromOutput", output)
    assert call(page, "progress", "measured", state)[0] == label


def test_cached_output_never_hides_news(page: Page) -> None:
    output = {"sidestep": [{"adapter": "C:\\loras\\mine.safetensors", "steps": 40, "heldout_last": 0.5}]}
    state = call(page, "progress", "fromOutput", output)
    assert (state["status"], state["step"]) == ("finished", 40)
    assert state["message"] == "mine.safetensors is in your LoRA list."
    assert call(page, "progress", "measured", state)[0] == "Measured"
    assert call(page, "progress", "explains", state, output)
    other = state | {"message": "other.safetensors is in your LoRA list."}
    assert not call(page, "progress", "explains", other, output)
    assert not call(page, "progress", "explains", state | {"status": "cancelled"}, output)
