"""One sentence reads the curve: noise never changes it, and only held-out songs can be learned by heart."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from demo.server import PACK_NAME, ComfyUI

EVERY = 50
"""Steps between two measurements."""
LEARNED_BY_HEART = "Rising since step {}, which was the best: songs are being learned by heart."
Curve = Callable[[float], float]


@pytest.fixture(scope="module")
def page(browser: Browser, server: ComfyUI) -> Iterator[Page]:
    with browser.new_context() as context:
        opened = context.new_page()
        opened.goto(f"{server.address}/extensions/{PACK_NAME}/progress/verdict.js")
        yield opened


def losses(curve: Curve, steps: int, noise: float, seed: int = 0) -> list[dict[str, float]]:
    draws = random.Random(seed)
    return [{"step": step, "loss": curve(step) * (1 + noise * draws.gauss(0, 1))} for step in range(1, steps + 1)]


def measurements(curve: Curve, count: int, noise: float, seed: int = 0) -> list[dict[str, float]]:
    draws = random.Random(seed)
    return [{"step": EVERY * number, "heldout": curve(EVERY * number) * (1 + noise * draws.gauss(0, 1))}
            for number in range(count)]


def verdict(page: Page, points: list[dict[str, float]], measured_on: str = "", status: str = "running") -> Any:
    return verdicts(page, [points], measured_on, status)[0]


def verdicts(page: Page, curves: list[list[dict[str, float]]], measured_on: str = "", status: str = "running") -> Any:
    state = {"measured_on": measured_on, "status": status}
    return page.evaluate("""async ([url, curves, state]) => {
        const { verdict } = await import(url);
        return curves.map((points) => verdict({ ...state, points }));
    }""", [f"/extensions/{PACK_NAME}/progress/verdict.js", curves, state])


def falling(step: float) -> float:
    return 0.5 + 0.4 * math.exp(-step / 400)


def flat(step: float) -> float:
    return 0.6


def valley(step: float) -> float:
    return 0.6 + 0.3 * ((step - 600) / 1000) ** 2


def test_no_curve_has_no_verdict(page: Page) -> None:
    assert verdict(page, []) == {"kind": "unknown", "sentence": ""}


def test_few_steps_are_too_early(page: Page) -> None:
    assert verdict(page, losses(falling, 20, 0.15))["sentence"] == "Too early to tell."
    assert verdict(page, losses(falling, 20, 0.15), status="cancelled")["sentence"] == "Too short to tell."


def test_falling_loss_goes_on(page: Page) -> None:
    points = losses(falling, 300, 0.12)
    assert verdict(page, points) == {"kind": "falling", "sentence": "Falling: go on."}
    ended = verdict(page, points, status="finished")["sentence"]
    assert ended == "Still falling at the end: more steps may help."


def test_flat_loss_names_its_length(page: Page) -> None:
    found = verdict(page, measurements(lambda step: max(falling(step), falling(800)), 40, 0.001), "held_out")
    assert found["kind"] == "flat"
    steps = int(found["sentence"].split()[2].replace(",", ""))
    assert 900 <= steps <= 1250
    assert found["sentence"] == f"Flat for {steps:,} steps: more will hardly help."


def test_rising_heldout_loss_names_best(page: Page) -> None:
    points = measurements(valley, 24, 0.001)
    best = min(points, key=lambda point: point["heldout"])["step"]
    found = verdict(page, points, "held_out")
    assert found == {"kind": "rising", "sentence": LEARNED_BY_HEART.format(best)}


@pytest.mark.parametrize("measured_on", ["trained", ""])
def test_trained_songs_show_no_memorising(page: Page, measured_on: str) -> None:
    found = verdict(page, measurements(valley, 24, 0.001), measured_on)
    assert found["kind"] == "rising"
    assert "heart" not in found["sentence"]
    assert "learning rate" in found["sentence"]


def test_training_loss_shows_no_memorising(page: Page) -> None:
    found = verdict(page, losses(lambda step: 0.5 + step / 1000, 400, 0.05), "held_out")
    assert found["kind"] == "rising"
    assert "heart" not in found["sentence"]


def test_heldout_loss_outranks_training_loss(page: Page) -> None:
    rows = {point["step"]: point for point in losses(falling, 1150, 0.12)}
    for point in measurements(valley, 24, 0.001):
        rows[point["step"]] = {**rows.get(point["step"], {}), **point}
    assert verdict(page, [rows[step] for step in sorted(rows)], "held_out")["kind"] == "rising"


@pytest.mark.parametrize("noise", [0.003, 0.01, 0.03])
def test_measurement_noise_is_no_trend(page: Page, noise: float) -> None:
    curves = [measurements(flat, count, noise, seed) for seed in range(40) for count in range(2, 40)]
    found = [each["kind"] for each in verdicts(page, curves, "held_out")]
    assert sum(kind in ("falling", "rising") for kind in found) <= 0.005 * len(found)


def test_loss_noise_is_no_trend(page: Page) -> None:
    curves = [losses(flat, count, 0.2, seed) for seed in range(10) for count in range(40, 600, 40)]
    found = [each["kind"] for each in verdicts(page, curves)]
    assert sum(kind in ("falling", "rising") for kind in found) <= 0.01 * len(found)


def test_wild_step_is_no_trend(page: Page) -> None:
    points = losses(flat, 900, 0.12)
    before = verdict(page, points)
    points[-7]["loss"] = 1e6
    assert verdict(page, points)["kind"] == before["kind"] == "flat"


def test_verdict_rarely_changes(page: Page) -> None:
    points = losses(falling, 1000, 0.12)
    kinds = [each["kind"] for each in verdicts(page, [points[:count] for count in range(20, 1000, 10)])]
    changes = sum(before != after for before, after in zip(kinds, kinds[1:], strict=False))
    assert kinds[0] == "unknown"
    assert changes <= 4


def test_songs_learned_by_heart_are_counted(page: Page) -> None:
    points = measurements(falling, 12, 0.003)
    points[4]["by_heart"], points[8]["by_heart"] = 0, 1
    found = verdict(page, points, "held_out")
    assert found["kind"] == "falling"
    assert found["sentence"] == ("Falling: go on. 1 song is being learned by heart: fewer steps, more songs, a lower "
                                 "rank or an earlier checkpoint help.")
    points[11]["by_heart"] = 0
    assert verdict(page, points, "held_out")["sentence"] == "Falling: go on."
    points[11]["by_heart"] = 3
    assert "3 songs are being learned by heart" in verdict(page, points, "held_out")["sentence"]
