"""A real training in the real page, in both render modes: live, after a reload, and inside a subgraph."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from demo.browser import configure, load, open_page
from demo.server import ComfyUI, Prompt
from demo.workflow import TRAINER

STEPS = 10
HELDOUT_EVERY = 5
PATIENCE = 120_000
"""Milliseconds; for a machine that does other things too."""
PANEL = ".sidestep-panel:has(.sidestep-curves)"


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes-2"])
def page(request: pytest.FixtureRequest, browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """ComfyUI's page in one of its two render modes."""
    configure(server, nodes_2=request.param)
    with open_page(browser, server, width=1200, height=900) as opened:
        yield opened


def training_part(prompt: Prompt, name: str) -> dict[str, Any]:
    """What the trainer needs of the prompt, made small: one short song, few steps."""
    trainer = next(node for node, content in prompt.items() if content["class_type"] == TRAINER)
    needed, found = [trainer], {}
    while needed:
        node = needed.pop()
        found[node] = copy.deepcopy(prompt[node])
        needed += [value[0] for value in found[node]["inputs"].values() if isinstance(value, list)]
    found[trainer]["inputs"] |= {"adapter_name": name, "max_steps": STEPS, "gradient_accumulation": 1,
                                 "heldout_songs": 0, "heldout_every": HELDOUT_EVERY, "save_every": 1000}
    for content in found.values():
        if "max_seconds" in content["inputs"]:
            content["inputs"]["max_seconds"] = 2.0
    return found


def test_training_is_shown_live_restored_and_not_repeated(
        page: Page, server: ComfyUI, prompt: Prompt, request: pytest.FixtureRequest) -> None:
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(f"{message.text} {message.location['url']}")
            if message.type == "error" else None)
    name = f"web-{request.node.callspec.id}"
    load(page, server.address)
    open_workflow(page, training_part(prompt, name), name)
    panel = page.locator(PANEL)
    expect(panel).to_contain_text("Not trained yet")
    asked = trainer_inputs(page)

    page.evaluate("() => void window.app.queuePrompt(0)")
    expect(panel).to_contain_text(f" of {STEPS}", timeout=PATIENCE)
    first = wait_for_curve(page, 1)
    grown = wait_for_curve(page, first + 1)

    load(page, server.address)
    wait_for_curve(page, grown)
    expect(panel).to_have_attribute("data-status", "finished", timeout=PATIENCE)
    expect(panel).to_contain_text(f"{STEPS} steps")
    expect(panel).to_contain_text(f"{name}.safetensors")
    assert count_points(page, ".sidestep-raw") == STEPS
    assert count_points(page, ".sidestep-heldout-dots") == 1 + STEPS // HELDOUT_EVERY
    page.wait_for_function("name => LiteGraph.createNode('LoraLoader').widgets[0].options.values.includes(name)",
                           arg=f"{name}.safetensors")

    again = trainer_inputs(page)

    open_workflow(page, training_part(prompt, name), "another one")
    page.wait_for_timeout(1000)
    expect(panel).to_contain_text("Not trained yet")
    assert page.locator(".p-toast-message-error").count() == 0
    ours = [text for text in complaints if "sidestep" in text.lower() or "side-step" in text.lower()]
    assert ours == []
    assert again == asked, "pressing Run again would ask for another training"


def test_a_trainer_inside_a_subgraph_shows_its_run(
        page: Page, prompt: Prompt, request: pytest.FixtureRequest) -> None:
    open_workflow(page, training_part(prompt, f"web-{request.node.callspec.id}"), "with a subgraph")
    page.evaluate("""type => {
        const { graph } = window.app;
        graph.convertToSubgraph(new Set(graph.nodes.filter(node => node.type === type)));
    }""", TRAINER)
    page.evaluate("() => void window.app.queuePrompt(0)")
    page.wait_for_function("""() => {
        const outer = window.app.graph.nodes.find(node => node.subgraph);
        const widget = outer.subgraph.nodes[0].widgets.find(({ name }) => name === 'sidestep_progress');
        return widget.panel.state?.status === 'finished';
    }""", timeout=PATIENCE)


def open_workflow(page: Page, prompt: Prompt, name: str) -> None:
    """Open the prompt as a new workflow, as if from a template: with an id that no other workflow has."""
    page.evaluate("""async ([prompt, name]) => {
        window.app.loadApiJson(prompt, name);
        const graph = window.app.graph.serialize();
        delete graph.id;
        await window.app.loadGraphData(graph, true, true, name);
    }""", [prompt, name])


def trainer_inputs(page: Page) -> dict[str, Any]:
    """What pressing Run would send for the trainer."""
    inputs: dict[str, Any] = page.evaluate("""async type => {
        const { output } = await window.app.graphToPrompt();
        return Object.values(output).find(node => node.class_type === type).inputs;
    }""", TRAINER)
    return inputs


def curve_length(page: Page) -> int:
    """How long the path of the loss curve is, as text."""
    length: int = page.evaluate("() => document.querySelector('.sidestep-raw').getAttribute('d').length")
    return length


def count_points(page: Page, selector: str) -> int:
    """How many points a path has."""
    count: int = page.evaluate("selector => document.querySelector(selector).getAttribute('d').match(/[ML]/g).length",
                               selector)
    return count


def wait_for_curve(page: Page, length: int) -> int:
    """Wait until the path of the loss curve is so long; how long it is then."""
    page.wait_for_function("length => document.querySelector('.sidestep-raw')?.getAttribute('d').length >= length",
                           arg=length, timeout=PATIENCE)
    return curve_length(page)
