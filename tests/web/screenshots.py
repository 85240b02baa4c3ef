"""Screenshots of tests, to look at: in `.screenshots`, which git ignores."""

from __future__ import annotations

from playwright.sync_api import Locator, Page

from demo.setup import PACK

FOLDER = PACK / ".screenshots"


def keep(shown: Page | Locator, name: str) -> None:
    """Keep a picture of a page, or of a part of it, under this name, instead of an earlier one."""
    shown.screenshot(path=FOLDER / f"{name}.png")
