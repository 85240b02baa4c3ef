"""ComfyUI's web page in Chromium."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from .server import ComfyUI

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync")
READY = """window.app?.vueAppReady && window.app.canvas && window.app.extensionManager
    && window.app.graph?.nodes.length && window.app.extensionManager.workflow.activeWorkflow"""
"""Condition that ComfyUI's first workflow is open: it would replace a workflow opened before."""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Launch a headless Chromium: the one that CHROMIUM names, else Debian's."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
                                             args=[*ARGUMENTS], headless=True)
        try:
            yield browser
        finally:
            browser.close()


def configure(server: ComfyUI, *, nodes_2: bool, palette: str = "dark", **settings: Any) -> None:
    """Set the page's render mode and colours, without the tutorial.  Settings outlive the page."""
    server.post_json("/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": nodes_2,
                                   "Comfy.ColorPalette": palette, "Comfy.UseNewMenu": "Top", **settings})


@contextlib.contextmanager
def open_page(browser: Browser, server: ComfyUI, *, width: int = 1400, height: int = 900) -> Iterator[Page]:
    """Open ComfyUI's page, ready for use, in a profile of its own."""
    with browser.new_context(viewport={"width": width, "height": height}) as context:
        page = context.new_page()
        load(page, server.address)
        yield page


def load(page: Page, address: str) -> None:
    """Open the address (again) and wait until ComfyUI's page is ready."""
    page.goto(address)
    page.wait_for_function(READY)
