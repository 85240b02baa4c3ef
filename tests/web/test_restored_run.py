"""Runs that ended before ComfyUI was started are on their nodes again, at once even if they are long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from demo.server import ComfyUI
from tests.run_folders import write_metrics, write_run
from tests.web.test_live_curve import PANEL, POINTS, open_trainer

NODE = 8150
WORKFLOW = "5b1d5a3e-2f6b-4c1d-9c55-6f8a2b9d1e07"
STEPS = 100_000
FIRST_PAINT = 1500
"""Milliseconds from asking to the drawn curve, on a machine that does other things too."""
ADOPT = """async ([node, workflow]) => {
    const { graph } = window.app;
    graph.nodes[0].id = node;
    graph.id = workflow;
    const started = performance.now();
    await window.app.extensions.find(({ name }) => name === "sidestep.progress").afterConfigureGraph();
    const curve = () => document.querySelector(".sidestep-curves .sidestep-smoothed")?.getAttribute("d") ?? "";
    while (!curve() && performance.now() - started < 20000) await new Promise(requestAnimationFrame);
    return performance.now() - started;
}"""


@pytest.fixture(scope="module")
def run(server: ComfyUI) -> Path:
    folder = write_run(server.base / "output" / "sidestep" / "runs" / "long-0123456789abcdef", started=3e9,
                       checkpoints=(50_000,), total=STEPS, node_id=str(NODE), workflow_id=WORKFLOW)
    write_metrics(folder / "metrics.jsonl", STEPS)
    return folder


def test_long_run_is_restored_quickly(page: Page, server: ComfyUI, run: Path) -> None:
    open_trainer(page)
    page.evaluate(ADOPT, [NODE, WORKFLOW])  # the server reads the file
    open_trainer(page)
    milliseconds = page.evaluate(ADOPT, [NODE, WORKFLOW])
    panel = page.locator(PANEL)
    expect(panel).to_have_attribute("data-status", "cancelled")
    expect(panel.locator(".sidestep-count")).to_have_text("step 50,000 of 100,000")
    steps: list[Any] = page.evaluate(POINTS)
    assert (steps[0], steps[-1]) == ([0, None], [STEPS, 1 / STEPS])
    assert 1000 <= len(steps) <= 4002
    assert milliseconds < FIRST_PAINT, milliseconds


def test_other_workflow_stays_empty(page: Page, server: ComfyUI, run: Path) -> None:
    open_trainer(page)
    page.evaluate("([node]) => { window.app.graph.nodes[0].id = node; }", [NODE])
    page.evaluate("""() => window.app.extensions.find(({ name }) => name === "sidestep.progress")
        .afterConfigureGraph()""")
    expect(page.locator(PANEL).locator(".sidestep-title")).to_have_text("Not trained yet")
