"""The plan on the panel: asked for when the workflow changes, never during a run, with a button for what helps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from demo.browser import load
from demo.examples import TRAINER
from demo.server import PACK_NAME, ComfyUI

QUIET = 600
"""Milliseconds without a change before the page asks."""
FITS: dict[str, Any] = {
    "name": "", "message": "", "wrong": False, "songs": 11, "heldout": 1, "minutes": 41.2, "steps": 1000,
    "listens": 159.7, "modules": 192, "parameters": 44_040_192, "bytes": 176_160_768, "verdict": "fits",
    "need": 4_500_000_000, "free": 7_000_000_000, "total": 8_000_000_000, "seconds": 660.0, "problems": [],
    "left_out": 0, "notes": [], "notices": [], "fix": None}
CHANGED = "() => window.comfyAPI.api.api.dispatchCustomEvent('graphChanged', {})"


@pytest.fixture
def plans(page: Page, server: ComfyUI) -> Iterator[list[dict[str, Any]]]:
    """Requests of the page, with a trainer alone in its workflow; the last of `ANSWER` is the answer."""
    asked: list[dict[str, Any]] = []

    def answer(route: Route) -> None:
        asked.append(json.loads(route.request.post_data or "{}"))
        route.fulfill(status=200, content_type="application/json", body=json.dumps(ANSWER[-1]))

    page.route("**/sidestep/plan", answer)
    load(page, server.address)
    page.evaluate("""type => {
        const { graph, canvas } = window.app;
        graph.clear();
        const node = LiteGraph.createNode(type);
        node.pos = [200, 100];
        graph.add(node);
        canvas.ds.scale = 1;
        canvas.ds.offset = [0, 0];
        canvas.setDirty(true, true);
    }""", TRAINER)
    page.wait_for_timeout(2 * QUIET)
    asked.clear()
    yield asked
    page.unroute("**/sidestep/plan")
    del ANSWER[1:]


ANSWER: list[dict[str, Any]] = [FITS]


def change_name(page: Page, name: str) -> None:
    page.evaluate("""([type, name]) => {
        const node = window.app.graph.nodes.find((each) => each.type === type);
        node.widgets.find((widget) => widget.name === 'adapter_name').value = name;
    }""", [TRAINER, name])
    page.evaluate(CHANGED)


def test_plan_is_in_words(page: Page) -> None:
    texts = page.evaluate("async ([url, plan]) => (await import(url)).planTexts(plan)",
                          [f"/extensions/{PACK_NAME}/progress/plan.js", FITS])
    assert texts == {
        "songs": "12 songs, 41 min, 1 held out; each about 160 times",
        "adapter": "192 modules, 44,040,192 parameters, 168 MB", "time": "about 11 min",
        "memory": "4.2 GB of 6.5 GB free: fits"}


def test_changes_are_asked_for_once(page: Page, plans: list[dict[str, Any]]) -> None:
    for name in ("one", "two", "three"):
        change_name(page, name)
    songs = page.locator(".sidestep-forecast dd").first
    expect(songs).to_have_text("12 songs, 41 min, 1 held out; each about 160 times")
    page.wait_for_timeout(2 * QUIET)
    [asked] = plans
    assert asked["prompt"][asked["node_id"]]["inputs"]["adapter_name"] == "three"


def test_proposed_change_is_made(page: Page, plans: list[dict[str, Any]]) -> None:
    node = page.evaluate("() => String(window.app.graph.nodes[0].id)")
    ANSWER.append(FITS | {"verdict": "too_large", "left_out": 1, "problems": ["<b>.mp3: It is empty."], "fix": {
        "sentence": "crops of 30 s would save 0.6 GB", "setting": "chunk_duration", "value": 30, "fits": True,
        "place": {"node": node, "widget": "chunk_duration"}}})
    change_name(page, "large")
    expect(page.locator(".sidestep-forecast li")).to_have_text("<b>.mp3: It is empty.")
    expect(page.locator(".sidestep-fix > span")).to_have_text("Crops of 30 s would save 0.6 GB.")
    page.get_by_role("button", name="Do it").click()
    value = page.evaluate("""() => window.app.graph.nodes[0].widgets.find(
        ({ name }) => name === 'chunk_duration').value""")
    assert value == "30"


def test_running_panel_asks_nothing(page: Page, plans: list[dict[str, Any]]) -> None:
    page.evaluate("""() => {
        const { panel } = window.app.graph.nodes[0].widgets.find(({ name }) => name === 'sidestep_progress');
        panel.state = { status: 'running' };
    }""")
    change_name(page, "running")
    page.wait_for_timeout(3 * QUIET)
    assert plans == []


def test_hidden_panel_asks_nothing(page: Page, plans: list[dict[str, Any]]) -> None:
    page.evaluate("""() => {
        window.app.canvas.ds.offset = [9000, 9000];
        window.app.canvas.setDirty(true, true);
    }""")
    page.wait_for_timeout(QUIET)
    change_name(page, "far away")
    page.wait_for_timeout(3 * QUIET)
    assert plans == []
