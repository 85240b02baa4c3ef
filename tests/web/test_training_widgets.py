"""Widgets of the training nodes in the page, in both render modes: their places, their values, and which are dimmed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from demo.browser import configure, open_page
from demo.examples import SETTINGS, TRAINER
from demo.server import ComfyUI
from demo.workflow import DEMO

NEAR = 2.0
"""Pixels by which a socket may miss the middle of its widget."""
SETTLES = 30
"""Tenths of a second in which the page may move sockets to their widgets."""
VALUES = {"adapter_name": "kept", "max_steps": 321, "learning_rate": 0.0003, "chunk_duration": "45", "seed": 7,
          "preview_every": "20", "if_already_trained": "train again", "resume_from": "my_run, step 20",
          "auto_estimate": True, "top_k": 9, "polite": True}
"""Value of each widget of Train LoRA (ACE-Step), in the order of workflow files."""

TRAINED = {"status": "finished", "stage": "train", "step": 2, "total": 2, "message": "", "previews": [], "metrics": {},
           "points": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]}
"""State of a panel that shows a curve."""

PLACES = """async ([type, state]) => {
    const { canvas, graph } = window.app;
    const node = graph.nodes.find((each) => each.type === type);
    const { panel } = node.widgets.find((each) => each.panel);
    if (state) panel.show(state);
    panel.resized();
    for (let frame = 0; frame < 30; frame++) {
        canvas.draw(true, true);
        await new Promise(requestAnimationFrame);
    }
    const origin = canvas.canvas.getBoundingClientRect().top + canvas.ds.offset[1] + node.pos[1];
    const rows = [...document.querySelectorAll('.lg-node-widget')];
    const middle = ({ name, y }) => {
        const box = rows.find((row) => row.textContent.trim() === name)?.getBoundingClientRect();
        return box ? (box.top + box.bottom) / 2 - origin : y + LiteGraph.NODE_SLOT_HEIGHT / 2;
    };
    const widgets = node.widgets.filter((each) => !each.panel && !each.advanced);
    const { top, bottom } = panel.element.getBoundingClientRect();
    return {
        chart: { top: top - origin, bottom: bottom - origin },
        widgets: Object.fromEntries(widgets.map((each) => [each.name, middle(each)])),
        sockets: Object.fromEntries(node.inputs.map(
            ({ name }, index) => [name, node.getInputPos(index)[1] - node.pos[1]])),
    };
}"""


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes-2"])
def page(request: pytest.FixtureRequest, browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """ComfyUI's page in one of its two render modes."""
    configure(server, nodes_2=request.param)
    with open_page(browser, server, width=1000, height=900) as opened:
        yield opened


@pytest.fixture
def trainer(page: Page) -> Page:
    """The page with one node in it, at its upper left, in a workflow of its own: ComfyUI keeps values by workflow."""
    page.evaluate("async () => { await window.app.loadGraphData({ version: 0.4, nodes: [], links: [] }); }")
    expect(page.locator(".sidestep-panel")).to_have_count(0)
    page.evaluate("""(type) => {
        const { canvas, graph } = window.app;
        graph.add(LiteGraph.createNode(type)).pos = [100, 60];
        Object.assign(canvas.ds, { scale: 1, offset: [0, 0] });
    }""", TRAINER)
    page.wait_for_function("""() => window.app.graph.nodes[0].widgets.some(
        ({ panel }) => panel?.element.getBoundingClientRect().height > 0)""")
    return page


@pytest.mark.parametrize(("state", "height"), [(None, 60), (TRAINED, 230)], ids=["before", "trained"])
def test_chart_precedes_widgets(trainer: Page, state: dict[str, Any] | None, height: int) -> None:
    for _ in range(SETTLES):
        places = trainer.evaluate(PLACES, [TRAINER, state])
        if all(abs(places["sockets"][name] - top) <= NEAR for name, top in places["widgets"].items()):
            break
        trainer.wait_for_timeout(100)
    chart, widgets, sockets = places["chart"], places["widgets"], places["sockets"]
    assert sockets["start_from"] < chart["top"] < chart["bottom"] < widgets["adapter_name"]
    assert chart["bottom"] - chart["top"] >= height
    assert list(widgets) == sorted(widgets, key=widgets.__getitem__)
    assert list(widgets) == list(VALUES)[:6]
    assert {name: pytest.approx(sockets[name], abs=NEAR) for name in widgets} == widgets


def test_saved_values_return(trainer: Page) -> None:
    set_values(trainer, VALUES)
    assert saved_values(trainer) == list(VALUES.values())
    trainer.evaluate("async () => { await window.app.loadGraphData(window.app.graph.serialize()); }")
    assert values(trainer) == [VALUES]
    assert saved_values(trainer) == list(VALUES.values())


def test_copies_have_all_values(trainer: Page) -> None:
    set_values(trainer, VALUES)
    trainer.evaluate("""() => {
        const { canvas, graph } = window.app;
        canvas.selectItems(graph.nodes);
        canvas.copyToClipboard();
        canvas.pasteFromClipboard();
        graph.add(graph.nodes[0].clone());
    }""")
    assert values(trainer) == [VALUES] * 3


def test_old_workflow_keeps_values(page: Page) -> None:
    workflow = json.loads(DEMO.read_text(encoding="utf-8"))
    [node] = [node for node in workflow["nodes"] if node["type"] == TRAINER]
    node["widgets_values"] = [value for name, value in VALUES.items() if name != "polite"]
    page.evaluate("async (workflow) => { await window.app.loadGraphData(workflow); }", workflow)
    assert values(page) == [VALUES | {"polite": False}]


def set_values(page: Page, changed: dict[str, Any]) -> None:
    """Enter the values in the first node."""
    page.evaluate("""(changed) => {
        for (const widget of window.app.graph.nodes[0].widgets) {
            if (widget.name in changed) widget.value = changed[widget.name];
        }
    }""", changed)


def values(page: Page) -> list[dict[str, Any]]:
    """Values of all Train LoRA nodes, by the names of their widgets."""
    found: list[dict[str, Any]] = page.evaluate("""(type) => window.app.graph.nodes
        .filter((node) => node.type === type).map((node) => Object.fromEntries(
            node.widgets.filter(({ panel }) => !panel).map(({ name, value }) => [name, value])))""", TRAINER)
    return found


def saved_values(page: Page) -> list[Any]:
    """Values of the first node in a workflow file."""
    found: list[Any] = page.evaluate("() => window.app.graph.nodes[0].serialize().widgets_values")
    return found


BY_DEFAULT = {"restarts", "timestep_mu", "timestep_sigma", "snr_gamma", "codes_ratio", "log_every",
              "log_heavy_every"}
"""Settings without effect among the defaults of the others."""


@pytest.mark.parametrize(("changed", "dimmed"), [
    ({}, BY_DEFAULT),
    ({"optimizer": "prodigy"}, BY_DEFAULT | {"warmup_steps", "lora_plus_ratio"}),
    ({"optimizer": "prodigy", "schedule": "cosine"}, BY_DEFAULT | {"lora_plus_ratio"}),
    ({"optimizer": "adamw_schedulefree"}, BY_DEFAULT | {"schedule", "ema_decay"}),
    ({"schedule": "constant"}, BY_DEFAULT | {"warmup_steps"}),
    ({"schedule": "cosine_restarts"}, BY_DEFAULT - {"restarts"}),
    ({"timestep_mode": "discrete"}, BY_DEFAULT | {"timestep_preset"}),
    ({"timestep_mode": "continuous"}, BY_DEFAULT | {"discrete_shift"}),
    ({"timestep_preset": "custom"}, BY_DEFAULT - {"timestep_mu", "timestep_sigma"}),
    ({"timestep_mode": "sampler", "timestep_preset": "custom"}, BY_DEFAULT | {"timestep_preset"}),
    ({"loss_weighting": "min_snr"}, BY_DEFAULT - {"snr_gamma"}),
    ({"context_mode": "mixed"}, BY_DEFAULT - {"codes_ratio"}),
    ({"tensorboard": True}, BY_DEFAULT - {"log_every", "log_heavy_every"}),
])
def test_settings_without_effect_are_dimmed(trainer: Page, changed: dict[str, Any], dimmed: set[str]) -> None:
    trainer.evaluate("(type) => { window.app.graph.add(LiteGraph.createNode(type)); }", SETTINGS)
    enter(trainer, SETTINGS, changed)
    assert disabled(trainer, SETTINGS) == dimmed
    trainer.evaluate("async () => { await window.app.loadGraphData(window.app.graph.serialize()); }")
    assert disabled(trainer, SETTINGS) == dimmed
    enter(trainer, SETTINGS, dict.fromkeys(changed, None))
    assert disabled(trainer, SETTINGS) == BY_DEFAULT


def test_epochs_dim_max_steps(trainer: Page) -> None:
    steps = trainer.get_by_label("max_steps", exact=True).locator("input")
    trainer.evaluate("""(type) => {
        const { graph } = window.app;
        graph.add(LiteGraph.createNode(type)).connect('settings', graph.nodes[0], 'settings');
    }""", SETTINGS)
    assert disabled(trainer, TRAINER) == set()
    enter(trainer, SETTINGS, {"epochs": "10"})
    assert disabled(trainer, TRAINER) == {"max_steps"}
    trainer.evaluate("async () => { await window.app.loadGraphData(window.app.graph.serialize()); }")
    assert disabled(trainer, TRAINER) == {"max_steps"}
    if trainer.evaluate("() => LiteGraph.vueNodesMode"):
        expect(steps).to_be_disabled()
    for word in ("use max_steps", "0", ""):
        enter(trainer, SETTINGS, {"epochs": "10"})
        enter(trainer, SETTINGS, {"epochs": word})
        assert disabled(trainer, TRAINER) == set()
    enter(trainer, SETTINGS, {"epochs": "2.5"})
    trainer.evaluate("(type) => window.app.graph.nodes.find((node) => node.type === type).disconnectInput('settings')",
                     TRAINER)
    assert disabled(trainer, TRAINER) == set()


def enter(page: Page, node: str, changed: dict[str, Any]) -> None:
    """Enter values in the node's widgets as the page does; None enters the default."""
    page.evaluate("""([type, changed]) => {
        const usual = LiteGraph.createNode(type).widgets;
        for (const widget of window.app.graph.nodes.find((node) => node.type === type).widgets) {
            if (!(widget.name in changed)) continue;
            widget.value = changed[widget.name] ?? usual.find(({ name }) => name === widget.name).value;
            widget.callback?.(widget.value);
        }
    }""", [node, changed])


def disabled(page: Page, node: str) -> set[str]:
    """Names of the node's widgets that cannot be changed."""
    names: list[str] = page.evaluate("""(type) => window.app.graph.nodes.find((node) => node.type === type).widgets
        .filter((widget) => widget.disabled).map(({ name }) => name)""", node)
    return set(names)
