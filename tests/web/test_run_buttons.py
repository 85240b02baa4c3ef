"""The buttons of a training's panel: usable when they fit, and doing what they say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from demo.browser import configure, load
from demo.examples import TRAINER
from demo.server import ComfyUI
from tests.web import screenshots
from tests.web.accessibility import assert_accessible
from tests.web.test_plan_panel import FITS

RUN = "buttons-0123"
RUNS = re.compile(r"/sidestep/runs($|/)")
SHOW = """async ([type, state]) => {
    const { graph } = window.app;
    let node = graph.nodes.find((each) => each.type === type);
    if (!node) {
        graph.clear();
        node = LiteGraph.createNode(type);
        graph.add(node);
    }
    const { panel } = node.widgets.find(({ name }) => name === 'sidestep_progress');
    panel.state = state;
    panel.show(state);
}"""
DURING = ["Preview now", "Save now", "Finish now"]


@pytest.fixture
def posts(page: Page, server: ComfyUI) -> Iterator[list[str]]:
    """Controls that the page asked for; "save" is refused."""
    asked: list[str] = []

    def answer(route: Route) -> None:
        request = route.request
        control = request.url.rpartition("/")[2]
        if request.method == "POST":
            asked.append(control)
            refused = control == "save"
            route.fulfill(status=409 if refused else 200, content_type="application/json",
                          body=json.dumps({"error": "The training is stopping."} if refused else {}))
        else:
            route.fulfill(status=200, content_type="application/json", body=json.dumps({"runs": [FACTS]}))

    page.route(RUNS, answer)
    yield asked
    page.unroute(RUNS)


FACTS: dict[str, Any] = {"id": RUN, "status": "finished", "step": 40, "total": 40, "files": ["demo.safetensors"]}


def state(status: str, **changes: Any) -> dict[str, Any]:
    return {"run": RUN, "node_id": "1", "workflow": None, "stage": "train", "status": status, "step": 40, "total": 80,
            "training": [40, 80], "message": "", "metrics": {}, "elapsed_seconds": 9, "saved": [], "measured_on": "",
            "points": [{"step": step, "loss": 1 / step} for step in range(1, 41)], "previews": [], **changes}


def show(page: Page, wanted: dict[str, Any]) -> None:
    page.evaluate(SHOW, [TRAINER, wanted])


def usable(page: Page) -> list[str]:
    return page.locator(".sidestep-controls > button:visible:enabled").all_text_contents()


@pytest.mark.parametrize(("status", "labels"), [
    ("running", [*DURING, "Pause", "Stop"]), ("paused", ["Finish now", "Continue", "Stop"]), ("stopping", [])])
def test_buttons_fit_the_state(page: Page, posts: list[str], status: str, labels: list[str]) -> None:
    show(page, state(status))
    assert usable(page) == labels
    assert len(page.locator(".sidestep-controls > button:visible").all()) == 5


def test_only_stop_before_first_step(page: Page, posts: list[str]) -> None:
    show(page, state("running", stage="load", training=None, points=[]))
    assert usable(page) == ["Stop"]


def test_estimate_has_no_buttons(page: Page, posts: list[str]) -> None:
    show(page, state("running", stage="estimate", training=None, points=[]))
    expect(page.locator(".sidestep-actions")).to_be_hidden()


def test_controls_are_sent_once(page: Page, posts: list[str]) -> None:
    show(page, state("running"))
    button = page.get_by_role("button", name="Finish now")
    button.evaluate("(element) => { element.click(); element.click(); }")
    page.wait_for_timeout(200)
    assert posts == ["finish"]


def test_refusal_is_shown_in_words(page: Page, posts: list[str]) -> None:
    show(page, state("running"))
    page.get_by_role("button", name="Save now").click()
    expect(page.locator(".sidestep-answer")).to_have_text("The training is stopping.")
    show(page, state("stopping"))
    expect(page.locator(".sidestep-answer")).to_be_empty()


def test_changed_state_is_announced(page: Page, posts: list[str]) -> None:
    show(page, state("running"))
    show(page, state("paused", message="Paused after step 40."))
    expect(page.locator(".sidestep-announced")).to_have_text("Paused. Paused after step 40.")


def test_finished_run_offers_next_steps(page: Page, posts: list[str]) -> None:
    show(page, state("finished"))
    page.get_by_role("button", name="Use it").wait_for()
    assert usable(page) == ["Use it", "Listen", "Continue +500", "Compare", "Show file"]
    page.get_by_role("button", name="Show file").click()
    expect(page.locator(".sidestep-answer")).to_have_text("In models/loras: demo.safetensors")
    report = page.get_by_role("link", name="Report")
    assert str(report.get_attribute("href")).endswith(f"/sidestep/runs/{RUN}/report")


@pytest.mark.parametrize("palette", ["dark", "light"])
def test_panel_is_accessible(page: Page, posts: list[str], server: ComfyUI, palette: str) -> None:
    configure(server, nodes_2=False, palette=palette)
    page.route("**/sidestep/plan", lambda route: route.fulfill(json=FITS))
    load(page, server.address)
    show(page, state("running", previews=[{"step": 0, "message": ""}, {"step": 20, "message": "No memory is left."}]))
    page.evaluate("""([type, plan]) => {
        const node = window.app.graph.nodes.find((each) => each.type === type);
        node.widgets.find(({ name }) => name === 'sidestep_progress').panel.plan.show(plan);
    }""", [TRAINER, FITS])
    for shown in (None, *(state(status, message="Done.") for status in ("running", "paused", "finished", "failed"))):
        page.evaluate(SHOW, [TRAINER, shown])
        if shown and shown["status"] == "finished":
            page.get_by_role("button", name="Use it").wait_for()
        assert_accessible(page, ".sidestep-panel")
        screenshots.keep(page.locator(".sidestep-panel"), f"panel-{shown['status'] if shown else 'idle'}-{palette}")
    page.unroute("**/sidestep/plan")


def test_every_button_takes_the_keyboard(page: Page, posts: list[str]) -> None:
    show(page, state("running"))
    page.locator(".sidestep-plot").focus()
    reached = []
    while len(reached) < 20 and "Stop" not in reached:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.textContent"))
    assert reached[-5:] == [*DURING, "Pause", "Stop"]
    for _ in range(2):
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_timeout(200)
    assert posts == ["finish"]


def test_use_it_adds_the_adapter(page: Page, posts: list[str]) -> None:
    show(page, state("finished"))
    page.get_by_role("button", name="Use it").click()
    page.wait_for_function("() => window.app.graph.nodes.length === 3")
    load_node, apply_node, overlaps = page.evaluate("""() => {
        const { nodes } = window.app.graph;
        const [load, apply] = ['SideStepLoadAdapter', 'SideStepApplyAdapter'].map(
            (type) => nodes.find((node) => node.type === type));
        const covers = (one, other) =>
            one.pos[0] < other.pos[0] + other.size[0] && other.pos[0] < one.pos[0] + one.size[0];
        return [load.widgets[0].value, apply.getInputNode(1)?.type, covers(load, nodes[0]) || covers(load, apply)];
    }""")
    assert (load_node, apply_node, overlaps) == ("demo.safetensors", "SideStepLoadAdapter", False)
    expect(page.locator(".sidestep-answer")).to_have_text("Connect your model to Apply Adapter.")
    load(page, page.url)


def test_longer_training_begins_at_checkpoint(page: Page, posts: list[str]) -> None:
    show(page, state("finished"))
    page.evaluate("""() => {
        window.queued = 0;
        window.app.queuePrompt = async () => { window.queued++; };
        window.app.refreshComboInNodes = async () => {};
    }""")
    button = page.get_by_role("button", name="Continue +500")
    button.click()
    expect(page.locator(".sidestep-answer")).to_have_text(
        "The checkpoint of step 40 is gone, so this training cannot go on.")
    page.evaluate("""([type, choice]) => {
        const node = window.app.graph.nodes.find((each) => each.type === type);
        node.widgets.find(({ name }) => name === 'resume_from').options.values.push(choice);
    }""", [TRAINER, f"{RUN}/checkpoint-step-40"])
    button.click()
    page.wait_for_function("() => window.queued === 1")
    values = page.evaluate("""type => {
        const { widgets } = window.app.graph.nodes.find((each) => each.type === type);
        return Object.fromEntries(widgets.map(({ name, value }) => [name, value]));
    }""", TRAINER)
    assert (values["max_steps"], values["resume_from"]) == (540, f"{RUN}/checkpoint-step-40")
