"""Names, messages and numbers that no page expects: shown as text, never run, and without breaking the socket."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from demo.examples import TRAINER
from demo.server import ComfyUI
from sidestep_core.audio import decode
from sidestep_core.compare import comparison
from sidestep_core.compare.comparison import Comparison, Take
from tests.music import music
from tests.run_folders import write_run
from tests.web.test_live_curve import NODE, PANEL, open_trainer

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script> \U0001f3b8\U0001f469\u200d\U0001f3a4 \u202e&amp;"
ODD_LOSSES = ("NaN", "Infinity", "-Infinity", "1e999", "null", "[]", '"4"')
SHOW = """([type, state]) => {
    const node = window.app.graph.nodes.find((each) => each.type === type);
    const { panel } = node.widgets.find(({ name }) => name === 'sidestep_progress');
    panel.state = state;
    panel.show(state);
}"""


@pytest.fixture(autouse=True)
def _nothing_is_run(page: Page) -> Iterator[None]:
    alarms: list[str] = []

    def alarm(dialog: Any) -> None:
        alarms.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", alarm)
    yield
    page.remove_listener("dialog", alarm)
    assert alarms == []


def is_text(place: Locator) -> None:
    """Assert that the hostile text is there as text, and made no element."""
    expect(place.first).to_contain_text(HOSTILE)
    assert place.locator("img, script").count() == 0


@pytest.mark.parametrize("status", ["running", "paused", "failed"])
def test_panel_shows_text(page: Page, status: str) -> None:
    open_trainer(page)
    odd = [None, -1e308, 1e308, 0, 5e-324]
    page.evaluate(SHOW, [TRAINER, {
        "run": HOSTILE, "node_id": "1", "workflow": None, "stage": "train", "status": status, "step": 3, "total": 4,
        "training": [3, 4], "message": HOSTILE, "metrics": {"loss": None, "eta_seconds": 1e308, "memory_used": -1,
                                                            "memory_total": 0, "step_seconds": None},
        "elapsed_seconds": 1e300, "saved": [2], "measured_on": HOSTILE, "previews": [{"step": 2, "message": HOSTILE}],
        "points": [{"step": step, "loss": loss, "smoothed": loss, "heldout": loss, "heldout_error": loss, "t0.1": loss}
                   for step, loss in enumerate(odd)]}])
    panel = page.locator(PANEL)
    is_text(panel.locator(".sidestep-note"))
    is_text(panel.locator(".sidestep-failure"))
    for path in panel.locator(".sidestep-curves path").all():
        assert "NaN" not in str(path.get_attribute("d"))


def test_plan_shows_text(page: Page) -> None:
    open_trainer(page)
    page.evaluate("""([type, text]) => {
        const node = window.app.graph.nodes.find((each) => each.type === type);
        const { plan } = node.widgets.find(({ name }) => name === 'sidestep_progress').panel;
        plan.show({ name: text, message: text, wrong: true });
    }""", [TRAINER, HOSTILE])
    is_text(page.locator(f"{PANEL} .sidestep-forecast"))


def test_socket_survives_odd_numbers(page: Page, server: ComfyUI, tmp_path: Path) -> None:
    open_trainer(page)
    steps = 30
    outcome = server.run({NODE: {"class_type": "TestsDriveSteps", "inputs": {
        "metrics_file": str(tmp_path / "odd" / "metrics.jsonl"), "steps": steps, "step_seconds": 0.01,
        "pause_at_end": 0.0, "odd": True}}}, 60)
    assert outcome.status == "success", outcome.exception_message
    panel = page.locator(PANEL)
    expect(panel).to_have_attribute("data-status", "finished")
    page.wait_for_function("""count => {
        const [node] = window.app.graph.nodes;
        return node.widgets.find(({ name }) => name === 'sidestep_progress').panel.state.points.length === count;
    }""", arg=steps)
    assert server.get_json("/sidestep/nodes/1/history")["status"] == "finished"


@pytest.fixture
def runs(server: ComfyUI) -> Iterator[list[Path]]:
    """Two runs with hostile names, notes and losses."""
    runs = server.base / "output" / "sidestep" / "runs"
    made = [write_run(runs / f"hostile-{number}", name=f"{HOSTILE} {number}", started=4e9, ended="failed",
                      message=HOSTILE, model=HOSTILE, files=(f"{HOSTILE}.safetensors",),
                      settings={"adapter": {"kind": HOSTILE, "rank": number}, "train": {"seed": HOSTILE}})
            for number in range(2)]
    for folder in made:
        (folder / "note.txt").write_text(HOSTILE, encoding="utf-8")
        lines = "".join(f'{{"step": {step}, "loss": {loss}, "smoothed": {loss}}}\n'
                        for step, loss in enumerate(ODD_LOSSES, 1))
        (folder / "metrics.jsonl").write_text(lines, encoding="utf-8")
    yield made
    for folder in made:
        shutil.rmtree(folder)


def test_runs_show_text(page: Page, server: ComfyUI, runs: list[Path]) -> None:
    rows = server.get_json(f"/sidestep/runs/{runs[0].name}/metrics")["rows"]
    assert [row["step"] for row in rows] == list(range(1, 1 + len(ODD_LOSSES)))
    json.dumps(rows, allow_nan=False)
    page.evaluate("() => window.app.extensionManager.command.execute('SideStep.ShowRuns')")
    rows = page.locator(".sidestep-run", has_text=HOSTILE)
    expect(rows).to_have_count(2)
    for row in rows.all():
        row.locator(".sidestep-run-open").click()
        row.get_by_role("checkbox").check()
    is_text(rows.first.locator(".sidestep-run-more"))
    page.get_by_role("button", name="Compare 2 runs").click()
    is_text(page.locator(".sidestep-comparison .sidestep-legend"))
    assert page.locator(".sidestep-sidebar img, .sidestep-sidebar script").count() == 0


def test_takes_show_text(page: Page, server: ComfyUI) -> None:
    sound = decode.flac(music(bars=1)[:, :decode.SAMPLE_RATE])
    takes = (Take(name=HOSTILE), Take(name=HOSTILE, strength=1.0, adapter_file=f"{HOSTILE}.safetensors"))
    found = Comparison(id=comparison.new_id(), created=time.time(), prompt=HOSTILE, lyrics=HOSTILE,
                       seed=7, steps=8, cfg=1.0, sampler=HOSTILE, scheduler="simple", denoise=1.0, seconds=1.0,
                       takes=takes)
    made = comparison.write(server.base / "output" / "sidestep" / "comparisons", found, [sound, sound])
    page.evaluate("() => window.app.extensionManager.command.execute('SideStep.Listen')")
    page.locator(".sidestep-listen-source").select_option(f"comparison/{found.id}")
    tab = page.locator(".sidestep-listen-tab")
    expect(tab.locator(".sidestep-listen-row")).to_have_count(2)
    is_text(tab.locator(".sidestep-listen-prompt"))
    is_text(tab.locator(".sidestep-listen-name"))
    shutil.rmtree(made)
