"""The page shows every point of a run while it goes on, at the speed of a real card."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from demo.browser import load
from demo.examples import TRAINER
from demo.server import ComfyUI

NODE = "1"
PANEL = ".sidestep-panel:has(.sidestep-curves)"
BEHIND_SECONDS = 1.0
"""Lag of the page behind the file."""
LOOKS = 5
PAUSE = 4.0
"""Seconds in which a preview is decoded at the end."""
POINTS = """() => {
    const [node] = window.app.graph.nodes;
    const { panel } = node.widgets.find(({ name }) => name === 'sidestep_progress');
    return (panel.state?.points ?? []).map(({ step, loss }) => [step, loss]);
}"""


def rows(file: Path) -> list[list[Any]]:
    if not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return [[row["step"], row["loss"]] for row in map(json.loads, (line for line in lines if line.endswith("\n")))]


def open_trainer(page: Page) -> None:
    """Open a workflow of one trainer, without a run."""
    page.evaluate("""type => {
        const { graph } = window.app;
        graph.clear();
        graph.add(LiteGraph.createNode(type));
    }""", TRAINER)
    assert page.evaluate("() => String(window.app.graph.nodes[0].id)") == NODE


def begin(server: ComfyUI, folder: Path, steps: int, seconds: float, pause: float = 0.0) -> tuple[Path, str]:
    file = folder / f"{folder.name}-{steps}" / "metrics.jsonl"
    inputs = {"metrics_file": str(file), "steps": steps, "step_seconds": seconds, "pause_at_end": pause}
    return file, server.submit({NODE: {"class_type": "TestsDriveSteps", "inputs": inputs}})


@pytest.mark.parametrize(("steps", "seconds"), [(2000, 0.001), (200, 0.02), (20, 0.2), (4, 1.0)])
def test_page_follows_the_file(page: Page, server: ComfyUI, tmp_path: Path, steps: int, seconds: float) -> None:
    open_trainer(page)
    file, prompt = begin(server, tmp_path, steps, seconds)
    looks, running = 0, True
    while running:
        before = rows(file)
        time.sleep(BEHIND_SECONDS)
        shown = page.evaluate(POINTS)
        running = len(rows(file)) < steps
        if running and before:
            looks += 1
        assert shown[:len(before)] == before, f"{len(shown)} points on the page, {len(before)} a second ago in the file"
    assert server.wait(prompt, 60).status == "success"
    assert looks or steps * seconds < 2 * BEHIND_SECONDS + LOOKS
    expect(page.locator(PANEL)).to_have_attribute("data-status", "finished")
    assert page.evaluate(POINTS) == rows(file)
    assert len(rows(file)) == steps


def test_reload_loses_no_point(page: Page, server: ComfyUI, tmp_path: Path) -> None:
    open_trainer(page)
    file, prompt = begin(server, tmp_path, 200, 0.05)
    page.wait_for_function(f"({POINTS})().length > 20")
    load(page, server.address)
    open_trainer(page)
    page.wait_for_function(f"({POINTS})().length > 60")
    shown = page.evaluate(POINTS)
    assert shown == rows(file)[:len(shown)]
    server.wait(prompt, 60)


def test_training_line_survives_preview(page: Page, server: ComfyUI, tmp_path: Path) -> None:
    open_trainer(page)
    _, prompt = begin(server, tmp_path, 10, 0.01, PAUSE)
    panel = page.locator(PANEL)
    expect(panel.locator(".sidestep-note")).to_have_text("Generating a preview 50 %: After the last step: decoding")
    expect(panel.locator(".sidestep-title")).to_have_text("Training")
    expect(panel.locator(".sidestep-count")).to_have_text("step 10 of 10")
    server.wait(prompt, 60)


def test_stopping_is_shown_immediately(page: Page, server: ComfyUI, tmp_path: Path) -> None:
    open_trainer(page)
    _, prompt = begin(server, tmp_path, 10, 0.01, PAUSE)
    panel = page.locator(PANEL)
    expect(panel.locator(".sidestep-count")).to_have_text("step 10 of 10")
    server.interrupt()
    expect(panel).to_have_attribute("data-status", "stopping")
    expect(panel.locator(".sidestep-note")).to_have_text("Stopping after this preview. What is done is kept.")
    server.wait(prompt, 60)


@pytest.mark.parametrize("status", ["running", "stopping"])
def test_restart_ends_the_run(page: Page, status: str) -> None:
    """The server knows nothing of a node that it has not run since it was started."""
    open_trainer(page)
    page.evaluate("""status => {
        const [node] = window.app.graph.nodes;
        node.id = 4711;
        const widget = node.widgets.find(({ name }) => name === 'sidestep_progress');
        widget.panel.state = { status, stage: 'train', step: 3, total: 9, training: [3, 9], run: 'a', message: '',
                               node_id: '4711', metrics: {}, points: [], previews: [] };
        window.comfyAPI.api.api.dispatchCustomEvent('reconnected');
    }""", status)
    panel = page.locator(PANEL)
    expect(panel).to_have_attribute("data-status", "cancelled")
    expect(panel.locator(".sidestep-note")).to_have_text("ComfyUI was restarted. Run again to continue.")


def test_cancelled_run_loses_no_point(page: Page, server: ComfyUI, tmp_path: Path) -> None:
    open_trainer(page)
    file, prompt = begin(server, tmp_path, 100_000, 0.001)
    page.wait_for_function(f"({POINTS})().length > 50")
    server.interrupt()
    server.wait(prompt, 60)
    expect(page.locator(PANEL)).to_have_attribute("data-status", "cancelled")
    page.wait_for_function(f"count => ({POINTS})().length >= count", arg=min(len(rows(file)), 2000))
    assert page.evaluate(POINTS) == rows(file)
