"""Failures are shown on the node, in the real page and in both render modes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from demo.browser import configure, load, open_page
from demo.server import ComfyUI
from sidestep_core.io.tensors import write_tensors
from tests.web.test_training_page import open_workflow

PATIENCE = 60_000
KEPT = """() => [localStorage, sessionStorage].some(storage => Object.values(storage).some(
    text => text.includes(window.app.graph.id) && text.includes('SideStepBuildDataset')))"""
"""True if ComfyUI has kept the open workflow for the next time the page is loaded."""
EMPTY = "no_songs_yet"
NOTE = ".sidestep-capacity[data-status='failed']"


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes-2"])
def page(request: pytest.FixtureRequest, browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """ComfyUI's page in one of its two render modes."""
    configure(server, nodes_2=request.param)
    (server.base / "input" / EMPTY).mkdir(exist_ok=True)
    with open_page(browser, server, width=1200, height=900) as opened:
        yield opened


def build(folder: str) -> dict[str, Any]:
    inputs = {"folder": folder, "dataset_name": "failures", "trigger_word": "", "trigger_position": "prepend",
              "genre_ratio": 0.0, "prompt_override": "as written", "all_instrumental": False, "language": ""}
    return {"1": {"class_type": "SideStepBuildDataset", "inputs": inputs}}


def run(page: Page) -> None:
    page.wait_for_function("() => window.app.graph.nodes.map(({ type }) => type).join() === 'SideStepBuildDataset'")
    page.evaluate("() => void window.app.queuePrompt(0)")


@pytest.mark.parametrize(("folder", "said"), [("my_song", "no folder"), (EMPTY, "No")])
def test_unusable_folder_is_shown(page: Page, folder: str, said: str) -> None:
    open_workflow(page, build(folder), f"with {folder}")
    run(page)
    expect(page.locator(NOTE)).to_contain_text(said, timeout=PATIENCE)
    expect(page.locator(NOTE)).to_contain_text(folder)


def test_refusal_by_comfyui_is_shown(page: Page, server: ComfyUI) -> None:
    prompt = build(EMPTY)
    prompt["1"]["inputs"]["genre_ratio"] = 7.0
    open_workflow(page, prompt, "refused")
    page.evaluate("() => { window.app.graph.nodes[0].widgets.find(({ name }) => name === 'genre_ratio').value = 7; }")
    run(page)
    expect(page.locator(NOTE)).to_contain_text("genre_ratio", timeout=PATIENCE)
    page.wait_for_function(KEPT)
    load(page, server.address)
    expect(page.locator(NOTE)).to_contain_text("genre_ratio", timeout=PATIENCE)
    page.evaluate("() => { window.app.graph.nodes[0].widgets.find(({ name }) => name === 'genre_ratio').value = 0; }")
    run(page)
    expect(page.locator(NOTE)).to_contain_text("No", timeout=PATIENCE)
    expect(page.locator(NOTE)).not_to_contain_text("genre_ratio")


def test_unused_parts_are_shown(page: Page, server: ComfyUI) -> None:
    """And no longer once another file is chosen, which is used whole."""
    lora = {f"diffusion_model.decoder.layers.0.self_attn.q_proj.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    loras = server.base / "models" / "loras"
    write_tensors(loras / "whole.safetensors", lora)
    write_tensors(loras / "partial.safetensors", lora | {"lora_te_q_proj.alpha": torch.ones(1)})
    open_workflow(page, {
        "1": {"class_type": "SideStepLoadAdapter", "inputs": {"adapter_file": "partial.safetensors"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}}}, "partial")
    page.wait_for_function("() => window.app.graph.nodes.some(({ type }) => type === 'SideStepLoadAdapter')")
    page.evaluate("() => void window.app.queuePrompt(0)")
    note = page.locator(".sidestep-capacity[data-status='warned'][role='alert']")
    expect(note).to_contain_text("1 of 3 tensors of partial.safetensors are no part", timeout=PATIENCE)
    page.evaluate("""() => {
        const { widgets } = window.app.graph.nodes.find(({ type }) => type === "SideStepLoadAdapter");
        widgets.find(({ name }) => name === "adapter_file").value = "whole.safetensors";
        void window.app.queuePrompt(0);
    }""")
    expect(note).to_have_count(0, timeout=PATIENCE)
    assert page.evaluate("() => window.app.graph.nodes.every(({ properties }) => !properties.capacity)")
