"""A real Chromium and a real ComfyUI for the tests of the web page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from demo.browser import chromium
from demo.server import ComfyUI
from tests.running import SERVERS, demo_comfyui


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """A ComfyUI of these tests alone."""
    base = tmp_path_factory.mktemp("comfyui")
    shutil.copytree(Path(__file__).with_name("driver"), base / "custom_nodes" / "driver")
    with demo_comfyui(base) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
def _models_are_let_go() -> Iterator[None]:
    """The server keeps the models of a whole session."""
    yield
    for running in SERVERS:
        running.post_json("/free", {"unload_models": True, "free_memory": True})
