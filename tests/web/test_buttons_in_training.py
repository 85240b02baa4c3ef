"""The panel's buttons, clicked during real trainings in a real ComfyUI: what they do, and what they leave as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from demo.browser import configure, open_page
from demo.examples import SETTINGS, TRAINER
from demo.server import ComfyUI, Prompt
from sidestep_core.training import metrics, run_checkpoint
from tests.running import slow_steps
from tests.training import same_tensors
from tests.web import screenshots
from tests.web.test_training_page import PANEL, PATIENCE, open_workflow, training_part

STEPS = 24
IN_BOTH_MODES = pytest.mark.parametrize("page", [False, True], ids=["classic", "nodes-2"], indirect=True)
DRAWN = re.compile("^M")
"""Path of a curve with a point."""
SECONDS = 4.0
"""Time of a workflow that does not train."""


@pytest.fixture(scope="module")
def page(request: pytest.FixtureRequest, browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """ComfyUI's page on its classic canvas, or in Nodes 2.0 for the tests that ask for both modes."""
    configure(server, nodes_2=getattr(request, "param", False))
    with open_page(browser, server, width=1200, height=1000) as opened:
        yield opened


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Name of an adapter that no other test trains."""
    return re.sub(r"\W+", "-", request.node.name.removeprefix("test_")).strip("-")


@pytest.fixture(scope="module")
def undisturbed(server: ComfyUI, prompt: Prompt) -> Path:
    """Adapter of the same training, left alone."""
    assert server.run(training(prompt, "undisturbed"), 580).status == "success"
    return lora(server, "undisturbed")


def training(prompt: Prompt, name: str, **inputs: Any) -> dict[str, Any]:
    """Make the prompt of a training of this name, with inputs of the trainer."""
    part = training_part(prompt, name)
    for content in part.values():
        if content["class_type"] == TRAINER:
            content["inputs"] |= {"max_steps": STEPS, **inputs}
        if content["class_type"] == SETTINGS:
            content["inputs"] |= {"preview_seconds": 1.0, "inference_steps": "2"}
    return part


def lora(server: ComfyUI, name: str) -> Path:
    return server.base / "models" / "loras" / f"{name}.safetensors"


def run_of(server: ComfyUI, name: str) -> Path:
    [run] = (server.base / "output" / "sidestep" / "runs").glob(f"{name}-*")
    return run


def begin(page: Page, part: dict[str, Any], name: str) -> Locator:
    """Run the workflow; return the panel when it has trained a step."""
    open_workflow(page, part, name)
    look_at_trainer(page)
    page.evaluate("() => void window.app.queuePrompt(0)")
    panel = page.locator(PANEL)
    expect(panel.locator(".sidestep-raw")).to_have_attribute("d", DRAWN, timeout=PATIENCE)
    return panel


def look_at_trainer(page: Page) -> None:
    """Move the canvas so that the upper end of the trainer is in sight."""
    page.evaluate("""type => {
        const { canvas, graph } = window.app;
        const { pos } = graph.nodes.find((node) => node.type === type);
        canvas.ds.scale = 1;
        canvas.ds.offset = [100 - pos[0], 60 - pos[1]];
        canvas.setDirty(true, true);
    }""", TRAINER)


def press(panel: Locator, label: str) -> None:
    panel.get_by_role("button", name=label, exact=True).click()


def ends(panel: Locator, status: str) -> None:
    expect(panel).to_have_attribute("data-status", status, timeout=PATIENCE)


def trained_steps(run: Path) -> list[float | str]:
    return [row["step"] for row in metrics.read(run / metrics.FILE) if "loss" in row]


@IN_BOTH_MODES
def test_only_time_is_changed(page: Page, server: ComfyUI, prompt: Prompt, name: str, undisturbed: Path) -> None:
    with slow_steps(server):
        panel = begin(page, training(prompt, name), name)
        press(panel, "Save now")
        press(panel, "Preview now")
        press(panel, "Pause")
        ends(panel, "paused")
    expect(panel.locator(".sidestep-note")).to_contain_text("The card is free.")
    screenshots.keep(page, f"training-{name}-paused")
    usable = panel.locator(".sidestep-controls > button:visible:enabled")
    expect(usable).to_have_text(["Finish now", "Continue", "Stop"])
    press(panel, "Continue")
    ends(panel, "finished")
    made = panel.locator(".sidestep-preview")
    expect(made).to_have_count(2)
    assert made.nth(0).get_attribute("title") != made.nth(1).get_attribute("title")
    expect(panel.locator(".sidestep-preview:enabled")).to_have_count(2)
    screenshots.keep(page, f"training-{name}-finished")
    assert len([*lora(server, name).parent.glob(f"{name}-step-*")]) == 1
    assert trained_steps(run_of(server, name)) == list(range(1, STEPS + 1))
    assert same_tensors(lora(server, name), undisturbed)


def test_finished_early_goes_on(page: Page, server: ComfyUI, prompt: Prompt, name: str, undisturbed: Path) -> None:
    with slow_steps(server):
        panel = begin(page, training(prompt, name), name)
        press(panel, "Finish now")
    ends(panel, "finished")
    finished = run_checkpoint.finished(run_of(server, name))
    assert finished is not None
    assert 0 < finished.steps < STEPS
    expect(panel.locator(".sidestep-count")).to_have_text(f"{finished.steps} steps")
    press(panel, "Continue")
    expect(panel.locator(".sidestep-note")).to_contain_text(f"{name}-2.safetensors", timeout=PATIENCE)
    assert same_tensors(lora(server, f"{name}-2"), undisturbed)


def test_stopped_run_goes_on(page: Page, server: ComfyUI, prompt: Prompt, name: str, undisturbed: Path) -> None:
    with slow_steps(server):
        panel = begin(page, training(prompt, name), name)
        press(panel, "Stop")
    ends(panel, "cancelled")
    expect(panel.locator(".sidestep-title")).to_have_text("Stopped, resumable")
    assert not lora(server, name).exists()
    press(panel, "Continue")
    ends(panel, "finished")
    assert trained_steps(run_of(server, name)) == list(range(1, STEPS + 1))
    assert same_tensors(lora(server, name), undisturbed)


def test_polite_training_waits(page: Page, server: ComfyUI, prompt: Prompt, name: str, undisturbed: Path,
                               tmp_path: Path) -> None:
    inputs = {"metrics_file": str(tmp_path / "m.jsonl"), "steps": 0, "step_seconds": 0.0, "pause_at_end": SECONDS}
    with slow_steps(server):
        panel = begin(page, training(prompt, name, polite=True), name)
        server.submit({"1": {"class_type": "TestsDriveSteps", "inputs": inputs}})
        ends(panel, "paused")
    note, answer = panel.locator(".sidestep-note"), panel.locator(".sidestep-answer")
    expect(note).to_have_text("Waiting for your generation. The training goes on by itself.")
    press(panel, "Continue")
    expect(answer).to_have_text("The training waits for other work. It goes on by itself.")
    ends(panel, "finished")
    assert trained_steps(run_of(server, name)) == list(range(1, STEPS + 1))
    assert same_tensors(lora(server, name), undisturbed)
