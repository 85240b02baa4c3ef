"""One training in several places: a second tab, another browser, and another process of ComfyUI show the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from demo.browser import configure, load, open_page
from demo.server import ComfyUI, Prompt
from tests.running import demo_comfyui, wait_until_idle
from tests.web.test_buttons_in_training import look_at_trainer
from tests.web.test_live_curve import PANEL, POINTS, begin, open_trainer, rows
from tests.web.test_training_page import PATIENCE, STEPS, open_workflow, training_part

SHOWN = """() => {
    const { panel } = window.app.graph.nodes.flatMap(({ widgets }) => widgets ?? [])
        .find(({ name, panel }) => name === 'sidestep_progress' && panel.chart);
    const text = (name) => panel.element.querySelector(name).textContent;
    const { points, previews, saved, status, measured_on } = panel.state;
    return { status, previews, saved, measured_on, title: text('.sidestep-title'), count: text('.sidestep-count'),
        note: text('.sidestep-note'), verdict: text('.sidestep-verdict'), times: text('.sidestep-times'),
        buttons: [...panel.element.querySelectorAll('.sidestep-controls > :not([hidden])')].map(
            (each) => each.textContent),
        points: points.map(({ step, loss, smoothed, heldout }) => [step, loss, smoothed, heldout]),
        paths: [...panel.element.querySelectorAll('.sidestep-curves path')].map((path) => path.getAttribute('d')) };
}"""
"""Everything that the panel of a training shows, but for times and speeds."""


def test_other_browsers_show_the_same(browser: Browser, server: ComfyUI, tmp_path: Path) -> None:
    steps = 150
    configure(server, nodes_2=False)
    with open_page(browser, server) as first, open_page(browser, server) as elsewhere:
        tab = first.context.new_page()
        load(tab, server.address)
        pages = (first, tab, elsewhere)
        for page in pages:
            open_trainer(page)
        file, prompt = begin(server, tmp_path, steps, 0.03)
        for page in pages:
            page.wait_for_function(f"({POINTS})().length > 20")
            shown = page.evaluate(POINTS)
            assert shown == rows(file)[:len(shown)]
        assert server.wait(prompt, 60).status == "success"
        for page in pages:
            expect(page.locator(PANEL)).to_have_attribute("data-status", "finished")
            assert page.evaluate(POINTS) == rows(file)
        one, *others = (page.evaluate(SHOWN) for page in pages)
        assert others == [one, one]


def shown_at_end(page: Page) -> dict[str, Any]:
    expect(page.locator(PANEL)).to_have_attribute("data-status", "finished", timeout=PATIENCE)
    page.wait_for_function(f"count => ({SHOWN})().points.length === count", arg=1 + STEPS)  # one before the first
    look_at_trainer(page)
    page.get_by_role("button", name="Use it").wait_for()
    found: dict[str, Any] = page.evaluate(SHOWN)
    return found


@pytest.mark.slow
def test_another_process_shows_the_same(browser: Browser, server: ComfyUI, prompt: Prompt) -> None:
    """As after a restart: all that it knows is on the disk.  Its address is another one, as is the browser's memory."""
    configure(server, nodes_2=False)
    with open_page(browser, server) as page:
        open_workflow(page, training_part(prompt, "restarted"), "restarted")
        page.evaluate("async () => { await window.app.queuePrompt(0); }")
        wait_until_idle(server)  # the models may be read for the first time
        before = shown_at_end(page)
        graph = page.evaluate("() => JSON.stringify(window.app.graph.serialize())")
    with demo_comfyui(server.base) as restarted, open_page(browser, restarted) as page:
        page.evaluate("graph => window.app.loadGraphData(graph)", json.loads(graph))
        after = shown_at_end(page)
    assert after == before
    assert before["status"] == "finished"
