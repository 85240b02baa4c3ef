"""The workflow files that people open ask for exactly what the demo's prompt asks for, and can be read."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from demo import blueprint
from demo.browser import configure, open_page
from demo.examples import EXAMPLES, MODEL, PROMPT, Example, for_people
from demo.server import ComfyUI, Prompt
from demo.setup import PACK
from demo.workflow import DEMO

FILES = [DEMO, *(example.file for example in EXAMPLES)]
TITLE_BAR = 30


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes-2"])
def page(request: pytest.FixtureRequest, browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """ComfyUI's page in one of its two render modes."""
    configure(server, nodes_2=request.param)
    with open_page(browser, server) as found:
        yield found


@dataclass(frozen=True)
class Opened:
    """Workflow as the page has it open."""

    prompt: Prompt
    """Prompt that the page would send."""
    boxes: list[list[Any]]
    """[title, x, y, width, height] of each node."""
    readable: bool
    """True if titles are drawn: far away, the page draws no text."""
    missing: list[dict[str, Any]]
    """Missing models that the page offers."""


Open = Callable[[Path], Opened]


@pytest.fixture(scope="module")
def opened(page: Page) -> Open:
    """Open a file in the page, once, as from the list of templates: the whole graph comes into view."""
    @functools.cache
    def show(path: Path) -> Opened:
        page.evaluate("""async graph => {
            await window.app.loadGraphData(graph, true, true, null, { openSource: 'template' });
        }""", json.loads(path.read_text(encoding="utf-8")))
        page.wait_for_timeout(1000)
        return Opened(**page.evaluate("""async () => ({
            boxes: window.app.graph.nodes.map(({ title, pos, size }) => [title, ...pos, ...size]),
            readable: !window.app.canvas.low_quality,
            missing: document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia
                .state.value.missingModel.missingModelCandidates ?? [],
            prompt: (await window.app.graphToPrompt()).output,
        })"""))

    return show


def test_demo_workflow_equals_its_prompt(opened: Open) -> None:
    assert meaning(opened(DEMO).prompt) == meaning(json.loads(PROMPT.read_text(encoding="utf-8")))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example_equals_its_prompt(opened: Open, example: Example) -> None:
    assert meaning(opened(example.file).prompt) == meaning(example.prompt_for_people())


def test_blueprint_equals_its_prompt(opened: Open) -> None:
    found = opened(blueprint.FILE)
    assert [title for title, *_ in found.boxes] == [blueprint.NAME]
    assert meaning(found.prompt) == meaning(blueprint.EXAMPLE.prompt_for_people())
    assert {model["name"] for model in found.missing} == {MODEL}


def test_changed_number_is_detected() -> None:
    prompt = json.loads(PROMPT.read_text(encoding="utf-8"))
    assert meaning(prompt) != meaning(for_people(prompt))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nodes_do_not_overlap(opened: Open, path: Path) -> None:
    overlapping = [(a[0], b[0]) for a, b in itertools.combinations(opened(path).boxes, 2) if overlap(a[1:], b[1:])]
    assert overlapping == []


def test_examples_have_thumbnails() -> None:
    files = sorted((PACK / "example_workflows").glob("*.json"))
    assert files == sorted(example.file for example in EXAMPLES)
    for path in files:
        assert path.with_suffix(".jpg").is_file()
        # With one, two copies would share one training history.
        assert "id" not in json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES[1:], ids=lambda path: path.stem)
def test_models_name_their_download(path: Path) -> None:
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    for node in nodes:
        named = [value for value in node.get("widgets_values", []) if str(value).endswith(".safetensors")]
        models = {model["name"]: model for model in node["properties"].get("models", [])}
        assert sorted(models) == sorted(named), node["type"]
        for name, model in models.items():
            assert model["url"].startswith("https://huggingface.co/Comfy-Org/")
            assert model["url"].endswith(f"/{model['directory']}/{name}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_note_is_at_top_left(path: Path) -> None:
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    [note] = [node for node in nodes if node["type"] == "MarkdownNote"]
    assert note["title"] == "How to use this"
    assert note["pos"] == [min(node["pos"][axis] for node in nodes) for axis in (0, 1)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_opened_titles_are_readable(opened: Open, path: Path) -> None:
    assert opened(path).readable


@pytest.mark.parametrize("path", FILES[1:], ids=lambda path: path.stem)
def test_missing_file_is_one_line(opened: Open, path: Path) -> None:
    missing = opened(path).missing
    assert {(model["name"], model["directory"]) for model in missing} == {(MODEL, "diffusion_models")}
    assert all(model["url"] for model in missing)


def meaning(prompt: Prompt) -> list[str]:
    """The prompt without its ids: every node with the whole tree of what it is linked to."""
    return sorted(json.dumps(tree(prompt, node), sort_keys=True) for node in prompt)


def tree(prompt: Prompt, node: str) -> Mapping[str, Any]:
    inputs = prompt[node]["inputs"]
    return {"class": prompt[node]["class_type"], "inputs": {
        name: [tree(prompt, value[0]), value[1]] if isinstance(value, list) else plain(value)
        for name, value in inputs.items()}}


def plain(value: object) -> object:
    """JavaScript writes 5.0 as 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def overlap(a: list[float], b: list[float]) -> bool:
    """True if two boxes [x, y, width, height] share a point; a node's title bar lies above its y."""
    apart = (a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] - TITLE_BAR
             or b[1] + b[3] <= a[1] - TITLE_BAR)
    return not apart
