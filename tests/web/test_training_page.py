"""A real training in the real page, in both render modes: live, after a reload, and inside a subgraph."""

from __future__ import annotations

import copy
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

from demo.browser import configure, load, open_page
from demo.examples import SETTINGS, TRAINER
from demo.server import ComfyUI, Prompt
from tests.running import slow_steps

STEPS = 20
HELDOUT_EVERY = 5
PATIENCE = 120_000
"""Milliseconds; for a machine that does other things too."""
PREVIEWED = "40"
PREVIEW_SECONDS = 2.0
PANEL = ".sidestep-panel:has(.sidestep-curves)"


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes-2"])
def page(request: pytest.FixtureRequest, browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """ComfyUI's page in one of its two render modes."""
    configure(server, nodes_2=request.param)
    with open_page(browser, server, width=1200, height=900) as opened:
        yield opened


@pytest.fixture(scope="module")
def previewed(server: ComfyUI, prompt: Prompt) -> dict[str, Any]:
    """The prompt of a finished training that generated a preview before and after, which no page was open for.

    The trainer has a number of its own, as the page asks for the latest run of a number.
    """
    changed = training_part(prompt, "previews")
    [number] = [node for node, content in changed.items() if content["class_type"] == TRAINER]
    changed[PREVIEWED] = changed.pop(number)
    changed[PREVIEWED]["inputs"] |= {"preview_every": str(STEPS)}
    [settings] = [content for content in changed.values() if content["class_type"] == SETTINGS]
    settings["inputs"] |= {"preview_seconds": PREVIEW_SECONDS, "inference_steps": "2"}
    outcome = server.run(changed, timeout=580)
    assert outcome.status == "success", outcome.exception_message
    return changed


def training_part(prompt: Prompt, name: str) -> dict[str, Any]:
    """Part of the prompt that the trainer needs, made small: one short song, few steps."""
    trainer = next(node for node, content in prompt.items() if content["class_type"] == TRAINER)
    needed, found = [trainer], {}
    while needed:
        node = needed.pop()
        found[node] = copy.deepcopy(prompt[node])
        needed += [value[0] for value in found[node]["inputs"].values() if isinstance(value, list)]
    found[trainer]["inputs"] |= {"adapter_name": name, "max_steps": STEPS}
    for content in found.values():
        if content["class_type"] == SETTINGS:
            content["inputs"] |= {"gradient_accumulation": 1, "heldout_songs": "0", "heldout_every": HELDOUT_EVERY,
                                  "save_every": 1000}
        if "max_seconds" in content["inputs"]:
            content["inputs"]["max_seconds"] = 1.0
    return found


def test_training_is_live_and_restored(page: Page, server: ComfyUI, prompt: Prompt,
                                       request: pytest.FixtureRequest) -> None:
    name = f"web-{request.node.callspec.id}"
    part = training_part(prompt, name)
    # Of each render mode its own, or ComfyUI would have the node's result already and not tell the page.
    [lora] = [content for content in part.values() if content["class_type"] == "SideStepConfigureLoRA"]
    lora["inputs"]["rank"] = {"classic": 16, "nodes-2": 8}[request.node.callspec.id]
    capacity = "LoRA: 32 modules and "
    open_workflow(page, part, name)
    panel = page.locator(PANEL)
    expect(panel).to_contain_text("Not trained yet")
    asked = trainer_inputs(page)

    record_curve(page)
    with slow_steps(server):
        page.evaluate("() => void window.app.queuePrompt(0)")
        expect(panel).to_contain_text(f" of {STEPS}", timeout=PATIENCE)
        expect(page.locator(".sidestep-capacity", has_text=capacity)).to_have_count(1, timeout=PATIENCE)
        page.wait_for_function("() => window.sidestepLengths.size > 1", timeout=PATIENCE)
        grown = curve_length(page)

    load(page, server.address)
    wait_for_curve(page, grown)
    expect(page.locator(".sidestep-capacity", has_text=capacity)).to_have_count(1)
    expect(panel).to_have_attribute("data-status", "finished", timeout=PATIENCE)
    expect(panel).to_contain_text(f"{STEPS} steps")
    expect(panel).to_contain_text(f"{name}.safetensors")
    expect(panel.locator(".sidestep-key-heldout dt")).to_have_text("Trained songs")
    # The points that were too many to send are fetched when the run has ended.
    for _ in range(50):
        if count_points(page, ".sidestep-raw") == STEPS:
            break
        page.wait_for_timeout(100)
    assert count_points(page, ".sidestep-raw") == STEPS
    assert count_points(page, ".sidestep-heldout-dots") == 1 + STEPS // HELDOUT_EVERY
    page.wait_for_function("name => LiteGraph.createNode('LoraLoader').widgets[0].options.values.includes(name)",
                           arg=f"{name}.safetensors")

    again = trainer_inputs(page)

    open_workflow(page, training_part(prompt, name), "another one")
    page.wait_for_timeout(1000)
    expect(panel).to_contain_text("Not trained yet")
    assert page.locator(".p-toast-message-error").count() == 0
    assert again == asked, "pressing Run again would ask for another training"


def test_trainer_in_subgraph_shows_run(page: Page, prompt: Prompt, request: pytest.FixtureRequest) -> None:
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


def test_switching_previews_keeps_the_place(page: Page, previewed: dict[str, Any]) -> None:
    open_workflow(page, previewed, "with previews")
    look_at(page, PREVIEWED)
    panel = page.locator(PANEL)
    expect(panel.locator(".sidestep-time")).to_have_count(5)
    buttons = panel.locator(".sidestep-preview")
    expect(buttons).to_have_text([f"step {STEPS}", "before"])
    # Everything is inside the panel.
    assert panel.evaluate("element => element.scrollHeight - element.clientHeight") <= 1

    buttons.nth(1).click()
    expect(buttons.nth(1)).to_have_attribute("aria-pressed", "true")
    wait_until_played(page, 0.5)
    assert page.evaluate("() => document.querySelector('.sidestep-listen audio').duration") == PREVIEW_SECONDS
    buttons.nth(0).click()
    expect(buttons.nth(0)).to_have_attribute("aria-pressed", "true")
    expect(buttons.nth(1)).to_have_attribute("aria-pressed", "false")
    assert wait_until_played(page, 0.5) < PREVIEW_SECONDS
    buttons.nth(0).click()
    expect(buttons.nth(0)).to_have_attribute("aria-pressed", "false")


def test_replaced_widgets_are_disabled(page: Page, prompt: Prompt) -> None:
    open_workflow(page, training_part(prompt, "with settings"), "with settings")
    steps = page.get_by_label("max_steps", exact=True).locator("input")
    assert widgets(page, disabled=True) == set()

    own = shown_values(page)
    page.evaluate("""type => {
        const { graph } = window.app;
        const trainer = graph.nodes.find(node => node.type === type);
        const preset = graph.add(LiteGraph.createNode('SideStepLoadPreset'));
        preset.widgets.find(({ name }) => name === 'changes').value = 'max_steps: 77';
        preset.connect('settings', trainer, 'settings');
    }""", TRAINER)
    page.wait_for_function(f"({SHOWN})('{TRAINER}').max_steps === '77'")
    assert shown_values(page) != own
    set_changes(page, "max_steps: 88\nlearning_rate: 0.0002")
    page.wait_for_function(f"({SHOWN})('{TRAINER}').max_steps === '88'")
    assert float(shown_values(page)["learning_rate"]) == 0.0002
    assert trainer_inputs(page)["max_steps"] == STEPS, "what the person entered is what is sent and kept"
    assert widgets(page, disabled=False) == {"adapter_name", "if_already_trained", "resume_from", "auto_estimate",
                                             "top_k", "polite"}
    assert {"max_steps", "learning_rate", "seed"} <= widgets(page, disabled=True)
    if page.evaluate("() => LiteGraph.vueNodesMode"):
        expect(steps).to_be_disabled()
    page.evaluate("async () => { await window.app.loadGraphData(window.app.graph.serialize()); }")
    assert "max_steps" in widgets(page, disabled=True)
    page.wait_for_function(f"({SHOWN})('{TRAINER}').max_steps === '88'")
    if page.evaluate("() => LiteGraph.vueNodesMode"):
        expect(steps).to_have_value("88")

    page.evaluate("""type => {
        const trainer = window.app.graph.nodes.find(node => node.type === type);
        trainer.disconnectInput('settings');
    }""", TRAINER)
    assert widgets(page, disabled=True) == set()
    page.wait_for_function(f"value => ({SHOWN})('{TRAINER}').max_steps === value", arg=str(STEPS))
    assert shown_values(page) == own
    if page.evaluate("() => LiteGraph.vueNodesMode"):
        expect(steps).to_be_enabled()
        expect(steps).to_have_value(str(STEPS))


SHOWN = """type => Object.fromEntries(window.app.graph.nodes.find(node => node.type === type).widgets
    .map(widget => [widget.name, String(widget.computedDisabled ? widget._displayValue : widget.value)]))"""
"""Text that the classic canvas draws into each widget."""


def shown_values(page: Page) -> dict[str, str]:
    values: dict[str, str] = page.evaluate(SHOWN, TRAINER)
    return values


def set_changes(page: Page, text: str) -> None:
    """Enter single settings on the preset, as a person does."""
    page.evaluate("""text => {
        const preset = window.app.graph.nodes.find(node => node.type === 'SideStepLoadPreset');
        const widget = preset.widgets.find(({ name }) => name === 'changes');
        widget.value = text;
        widget.callback?.(text);
    }""", text)


def widgets(page: Page, *, disabled: bool) -> set[str]:
    """Names of the trainer's widgets that can, or cannot, be changed; without the panel."""
    names: list[str] = page.evaluate("""([type, disabled]) =>
        window.app.graph.nodes.find(node => node.type === type).widgets
            .filter(widget => widget.name !== 'sidestep_progress' && Boolean(widget.disabled) === disabled)
            .map(widget => widget.name)""", [TRAINER, disabled])
    return set(names)


def test_preset_text_shows_its_values(page: Page, prompt: Prompt) -> None:
    open_workflow(page, training_part(prompt, "with a text"), "with a text")
    page.evaluate("""type => {
        const { graph } = window.app;
        const trainer = graph.nodes.find(node => node.type === type);
        const [preset, text] = ['SideStepLoadPreset', 'PrimitiveStringMultiline'].map(
            name => graph.add(LiteGraph.createNode(name)));
        text.widgets[0].value = 'max_steps: 99';
        text.connect(0, preset, 'changes');
        preset.connect('settings', trainer, 'settings');
        const output = { sidestep: [{ message: '', settings: { max_steps: 99 } }] };
        preset.onExecuted(output);
    }""", TRAINER)
    page.wait_for_function(f"({SHOWN})('{TRAINER}').max_steps === '99'")


def test_previews_need_valid_numbers(server: ComfyUI, previewed: dict[str, Any]) -> None:
    run = server.get_json(f"/sidestep/nodes/{PREVIEWED}/history")["run"]
    folder = f"/sidestep/nodes/{PREVIEWED}/runs/{quote(run)}/previews"
    status, headers, whole = download(server, f"{folder}/0")
    assert (status, headers["Content-Type"], whole[:4]) == (200, "audio/flac", b"fLaC")
    status, headers, part = download(server, f"{folder}/0", "bytes=4-99")
    assert (status, part) == (206, whole[4:100])
    assert download(server, f"{folder}/{STEPS}")[2] != whole
    for missing in (f"{folder}/7", f"{folder}/-1", f"{folder}/..%2F0", folder.replace(quote(run), "another") + "/0"):
        assert download(server, missing)[0] == 404


def download(server: ComfyUI, path: str, part: str = "") -> tuple[int, Message, bytes]:
    """Status, headers and content."""
    request = urllib.request.Request(f"{server.address}{path}", headers={"Range": part} if part else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, b""


def look_at(page: Page, node: str) -> None:
    """Move the canvas so that the lower end of the node is in sight."""
    page.evaluate("""id => {
        const { canvas, graph } = window.app;
        const { pos, size } = graph.getNodeById(Number(id));
        canvas.ds.scale = 1;
        canvas.ds.offset = [300 - pos[0], 800 - pos[1] - size[1]];
        canvas.setDirty(true, true);
    }""", node)


def wait_until_played(page: Page, seconds: float) -> float:
    """Wait until the player of the previews is playing at so many seconds or later; where it is then."""
    page.wait_for_function("""seconds => {
        const audio = document.querySelector('.sidestep-listen audio');
        return !audio.paused && audio.readyState >= 3 && audio.currentTime >= seconds;
    }""", arg=seconds, timeout=PATIENCE)
    place: float = page.evaluate("() => document.querySelector('.sidestep-listen audio').currentTime")
    return place


def open_workflow(page: Page, prompt: Prompt, name: str) -> None:
    """Open the prompt as a new workflow, as if from a template: with an id that no other workflow has."""
    page.evaluate("""async ([prompt, name]) => {
        window.app.loadApiJson(prompt, name);
        const graph = window.app.graph.serialize();
        delete graph.id;
        await window.app.loadGraphData(graph, true, true, name);
    }""", [prompt, name])


def trainer_inputs(page: Page) -> dict[str, Any]:
    """Inputs of the trainer that pressing Run would send."""
    inputs: dict[str, Any] = page.evaluate("""async type => {
        const { output } = await window.app.graphToPrompt();
        return Object.values(output).find(node => node.class_type === type).inputs;
    }""", TRAINER)
    return inputs


def record_curve(page: Page) -> None:
    """Record each length that the loss curve is drawn with: a look now and then may come after the last of them."""
    page.evaluate("""() => {
        window.sidestepLengths = new Set();
        const look = () => {
            const length = document.querySelector('.sidestep-raw')?.getAttribute('d')?.length;
            if (length) window.sidestepLengths.add(length);
        };
        new MutationObserver(look).observe(document.body, { subtree: true, attributes: true, attributeFilter: ['d'] });
    }""")


def curve_length(page: Page) -> int:
    """Length of the path of the loss curve, as text."""
    length: int = page.evaluate("() => document.querySelector('.sidestep-raw').getAttribute('d').length")
    return length


def count_points(page: Page, selector: str) -> int:
    """Number of points of a path."""
    count: int = page.evaluate("selector => document.querySelector(selector).getAttribute('d').match(/[ML]/g).length",
                               selector)
    return count


def wait_for_curve(page: Page, length: int) -> int:
    """Wait until the path of the loss curve is so long; how long it is then."""
    page.wait_for_function("length => document.querySelector('.sidestep-raw')?.getAttribute('d').length >= length",
                           arg=length, timeout=PATIENCE)
    return curve_length(page)
