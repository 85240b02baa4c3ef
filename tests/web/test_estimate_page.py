"""Estimating in the real page, in both render modes: progress, heat map, and which widgets count."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from demo.browser import configure, open_page
from demo.examples import ESTIMATE, TRAINER
from demo.models import model_files, with_models
from demo.server import ComfyUI
from demo.setup import BASE
from demo.synthetic_model import DEMO_MODEL

PATIENCE = 120_000
"""Milliseconds; for a machine that does other things too."""
CHOICE = {"choose", "granularity", "top_k", "percentile", "million_parameters", "minimum_per_category",
          "rank_by_score", "min_rank", "max_rank"}
CONFIGURE = "SideStepConfigureLoRA"


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes-2"])
def page(request: pytest.FixtureRequest, browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """ComfyUI's page in one of its two render modes."""
    configure(server, nodes_2=request.param)
    with open_page(browser, server, width=1400, height=1000) as opened:
        yield opened


def estimating(mode: str) -> dict[str, Any]:
    """The example without its training, made small; of each render mode its own, so that neither is cached."""
    prompt: dict[str, Any] = copy.deepcopy(dict(with_models(
        json.loads(ESTIMATE.prompt.read_text(encoding="utf-8")), model_files(BASE / "models" / DEMO_MODEL))))
    found = {node: content for node, content in prompt.items() if content["class_type"] != TRAINER}
    for content in found.values():
        if content["class_type"] == "SideStepPreprocessAudioFolder":
            content["inputs"] |= {"max_seconds": 1.0, "dataset_name": "demo"}
        if content["class_type"] == "SideStepEstimateGradients":
            content["inputs"] |= {"estimate_batches": 4, "top_k": {"classic": 5, "nodes-2": 6}[mode]}
        if content["class_type"] == CONFIGURE:
            content["inputs"] |= {"top_k": {"classic": 5, "nodes-2": 6}[mode]}
    return found


def test_estimate_and_heat_map_shown(page: Page, request: pytest.FixtureRequest) -> None:
    prompt = estimating(request.node.callspec.id)
    save = {"class_type": "SideStepSavePreset", "inputs": {
        "name": "estimated", "description": "", "overwrite": True,
        "adapter_config": [next(n for n, content in prompt.items() if content["class_type"] == CONFIGURE), 0]}}
    open_workflow(page, prompt | {"99": save})
    panel = page.locator(".sidestep-panel", has_text="Not measured yet")
    expect(panel).to_contain_text("it measures where to")
    page.evaluate("() => void window.app.queuePrompt(0)")
    done = page.locator(".sidestep-panel", has_text="modules measured on 4 samples")
    expect(done).to_have_attribute("data-status", "finished", timeout=PATIENCE)
    chosen = {"classic": 5, "nodes-2": 6}[request.node.callspec.id]
    note = page.locator(".sidestep-capacity", has_text=f"the estimate chose {chosen} of 44 modules")
    expect(note).to_have_count(1, timeout=PATIENCE)
    page.wait_for_function("""() => window.app.nodeOutputs && Object.values(window.app.nodeOutputs)
        .some(output => output.images?.length === 1)""", timeout=PATIENCE)


def test_idle_widgets_are_disabled(page: Page, request: pytest.FixtureRequest) -> None:
    open_workflow(page, estimating(request.node.callspec.id))
    assert disabled(page) == set()
    page.evaluate("""type => window.app.graph.nodes.find(node => node.type === type).disconnectInput('estimate')""",
                  CONFIGURE)
    assert disabled(page) == CHOICE
    page.evaluate("async () => { await window.app.loadGraphData(window.app.graph.serialize()); }")
    assert disabled(page) == CHOICE
    page.evaluate("type => { window.app.graph.add(LiteGraph.createNode(type)).title = 'fresh'; }", CONFIGURE)
    assert disabled(page, "fresh") == CHOICE


def open_workflow(page: Page, prompt: dict[str, Any]) -> None:
    """Open the prompt as a new workflow."""
    page.evaluate("""async prompt => {
        window.app.loadApiJson(prompt, 'estimated');
        const graph = window.app.graph.serialize();
        delete graph.id;
        await window.app.loadGraphData(graph, true, true, 'estimated');
    }""", prompt)


def disabled(page: Page, title: str = "Configure LoRA") -> set[str]:
    """Names of that node's widgets that cannot be changed."""
    names: list[str] = page.evaluate("""title => window.app.graph.nodes.find(node => node.title === title).widgets
        .filter(widget => widget.disabled).map(widget => widget.name)""", title)
    return set(names)
