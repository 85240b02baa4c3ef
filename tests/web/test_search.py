"""First nodes of this pack in the page's own search, for words that people type."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from demo.blueprint import INPUTS, NAME
from demo.browser import configure, open_page
from demo.examples import TRAINER
from demo.server import ComfyUI

TRAIN, LOADER = "Train LoRA (ACE-Step)", "Load ACE-Step Checkpoint"
FIRST_HITS = {
    "train": TRAIN, "lora": TRAIN, "music": TRAIN, "resume": TRAIN, "continue": TRAIN,
    "ace": LOADER, "ace-step": LOADER, "ace step": TRAIN,
    "dataset": "Build Dataset", "songs": "Split Songs", "song": "Song Audio", "audio": "Audio Folder to Dataset",
    "preprocess": "Audio Folder to Dataset",
    "caption": "Caption Songs", "lokr": "Configure LoKR", "preset": "Load Preset", "apply": "Apply Adapter",
    "merge": "Merge Adapter", "estimate": "Estimate Gradients",
}
IN_SIGHT = {"train": TRAIN, "lora": TRAIN, "ace": TRAIN, "ace-step": TRAIN, "music": TRAIN, "resume": TRAIN,
            "continue": TRAIN, "dataset": "Audio Folder to Dataset"}
"""Nodes among the first of all, those of ComfyUI too."""
FIRST_ENTRIES = 14


@pytest.fixture(scope="module")
def page(browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """ComfyUI's page with its node search open."""
    configure(server, nodes_2=False)
    with open_page(browser, server) as opened:
        opened.evaluate("() => window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
        yield opened


@pytest.fixture(scope="module")
def ours(server: ComfyUI) -> set[str]:
    """Display names of this pack's nodes."""
    nodes = server.get_json("/object_info")
    return {node["display_name"] for name, node in nodes.items() if name.startswith("SideStep")}


def entries(page: Page, word: str) -> list[str]:
    """Names that the search lists for a word, from the top.  The page's own words for no hit come first, so that no
    list of an earlier word is read."""
    box = page.locator("[role=search] input").first
    box.fill("no node is called like this")
    expect(page.get_by_test_id("no-results")).to_be_visible()
    box.fill(word)
    expect(page.get_by_test_id("result-item").first).to_be_visible()
    return [text.partition("\n")[0].strip() for text in page.get_by_test_id("result-item").all_inner_texts()]


@pytest.mark.parametrize("word", FIRST_HITS)
def test_search_finds_right_node(page: Page, ours: set[str], word: str) -> None:
    assert next(name for name in entries(page, word) if name in ours) == FIRST_HITS[word]


def test_blueprint_is_added_from_search(page: Page) -> None:
    assert NAME in entries(page, NAME)
    page.get_by_test_id("result-item").filter(has_text=NAME).first.click()
    page.wait_for_function("() => window.app.graph.nodes.some(({ subgraph }) => subgraph)")
    widgets, inside = page.evaluate("""() => {
        const node = window.app.graph.nodes.find(({ subgraph }) => subgraph);
        return [node.widgets.map(({ name }) => name), node.subgraph.nodes.map(({ type }) => type)];
    }""")
    assert widgets == [label for label, _ in INPUTS]
    assert {TRAINER, "SideStepApplyAdapter", "SaveAudio"} <= {*inside}
    page.evaluate("() => window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")


@pytest.mark.parametrize("word", IN_SIGHT)
def test_newcomers_nodes_are_visible(page: Page, word: str) -> None:
    assert IN_SIGHT[word] in entries(page, word)[:FIRST_ENTRIES]
