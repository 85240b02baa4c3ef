"""What goes wrong is said on the node, in the real page and in both render modes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from demo.browser import configure, load, open_page
from demo.server import ComfyUI
from tests.web.test_training_page import open_workflow

PATIENCE = 60_000
EMPTY = "no_songs_yet"
NOTE = ".sidestep-capacity[data-status='failed']"


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes-2"])
def page(request: pytest.FixtureRequest, browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """ComfyUI's page in one of its two render modes."""
    configure(server, nodes_2=request.param)
    (server.base / "input" / EMPTY).mkdir(exist_ok=True)
    with open_page(browser, server, width=1200, height=900) as opened:
        load(opened, server.address)
        opened.wait_for_function("() => window.app.graph.nodes.length")  # ComfyUI's own first workflow is there
        yield opened


def build(folder: str) -> dict[str, Any]:
    inputs = {"folder": folder, "dataset_name": "failures", "tag": "", "tag_position": "prepend", "genre_ratio": 0.0,
              "prompt_override": "as written", "all_instrumental": False, "language": ""}
    return {"1": {"class_type": "SideStepBuildDataset", "inputs": inputs}}


def run(page: Page) -> None:
    page.wait_for_function("() => window.app.graph.nodes.map(({ type }) => type).join() === 'SideStepBuildDataset'")
    page.evaluate("() => void window.app.queuePrompt(0)")


@pytest.mark.parametrize(("folder", "said"), [("my_song", "no folder"), (EMPTY, "No")])
def test_a_folder_that_cannot_be_used_is_said_on_the_node(page: Page, folder: str, said: str) -> None:
    open_workflow(page, build(folder), f"with {folder}")
    run(page)
    expect(page.locator(NOTE)).to_contain_text(said, timeout=PATIENCE)
    expect(page.locator(NOTE)).to_contain_text(folder)


def test_what_comfyui_refuses_is_said_on_the_node(page: Page) -> None:
    prompt = build(EMPTY)
    prompt["1"]["inputs"]["genre_ratio"] = 7.0
    open_workflow(page, prompt, "refused")
    page.evaluate("() => { window.app.graph.nodes[0].widgets.find(({ name }) => name === 'genre_ratio').value = 7; }")
    run(page)
    expect(page.locator(NOTE)).to_contain_text("genre_ratio", timeout=PATIENCE)
