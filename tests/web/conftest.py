"""A real Chromium and a real ComfyUI for the tests of the web page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, WebError

from demo.browser import chromium, configure, open_page
from demo.server import ComfyUI
from tests.running import SERVERS, demo_comfyui, make_idle

OURS = ("sidestep", "side-step")
EXPECTED = ("Failed to load resource", "Unhandled message")
"""Chromium's message for an answer that is no 200, which tests of refusals ask for; the host's for an event that comes
before it has loaded any extension."""


@pytest.fixture(scope="session")
def complaints() -> list[str]:
    """Errors and warnings of this pack in the consoles of all pages since the last test."""
    return []


@pytest.fixture(scope="session")
def browser(complaints: list[str]) -> Iterator[Browser]:
    """A Chromium whose pages are watched for complaints."""
    with chromium() as running:
        new_context = running.new_context

        def watched(**options: Any) -> BrowserContext:
            context = new_context(**options)
            context.on("console", lambda message: complaints.extend(complaint(message)))
            context.on("weberror", lambda error: complaints.extend(failure(error)))
            return context

        running.new_context = watched  # type: ignore[method-assign]
        yield running


def complaint(message: ConsoleMessage) -> list[str]:
    """A message of a console, if it is an error or a warning of this pack.

    Errors of the host that only passed through the pack begin in the host's code.
    """
    text = f"{message.type}: {message.text}"
    beginning = " ".join(text.lower().splitlines()[:2] + [message.location["url"].lower()])
    grave = message.type in ("error", "warning") and not message.text.startswith(EXPECTED)
    return [text] if grave and any(name in beginning for name in OURS) else []


def failure(error: WebError) -> list[str]:
    """An exception that nothing caught, if it passed through this pack."""
    text = f"{error.error.message}\n{error.error.stack}"
    return [text] if any(name in text.lower() for name in OURS) else []


@pytest.fixture(autouse=True)
def _consoles_are_quiet(complaints: list[str]) -> Iterator[None]:
    """Fail the test during which a page complained of this pack."""
    yield
    found, complaints[:] = list(complaints), []
    assert not found, "\n".join(found)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """A ComfyUI of these tests alone."""
    base = tmp_path_factory.mktemp("comfyui")
    shutil.copytree(Path(__file__).with_name("driver"), base / "custom_nodes" / "driver")
    with demo_comfyui(base) as running:
        yield running


@pytest.fixture(scope="module")
def page(browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """ComfyUI's page with the classic canvas."""
    configure(server, nodes_2=False)
    with open_page(browser, server) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _servers_are_left_idle() -> Iterator[None]:
    """Stop what a test has left running, or waiting, on the server that the next ones share."""
    yield
    for running in SERVERS:
        make_idle(running)


@pytest.fixture(scope="module", autouse=True)
def _models_are_let_go() -> Iterator[None]:
    """The server keeps the models of a whole session."""
    yield
    for running in SERVERS:
        running.post_json("/free", {"unload_models": True, "free_memory": True})
