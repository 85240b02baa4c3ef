"""The watch over the consoles of all pages can fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        yield context.new_page()


@pytest.mark.parametrize("code", [
    "console.error('sidestep: no such node')", "console.warn('Side-Step is old')",
    "setTimeout(() => { throw new Error('sidestep'); })", "void Promise.reject(new Error('sidestep'))"])
def test_complaint_of_pack_is_found(page: Page, complaints: list[str], code: str) -> None:
    page.evaluate(f"() => {{ {code}; }}")
    page.wait_for_timeout(50)
    assert len(complaints) == 1
    complaints.clear()


@pytest.mark.parametrize("code", [
    "console.error('canvas')", "console.log('sidestep')",
    "console.error('canvas\\n at a (a.js)\\n at b (sidestep.js)')"])
def test_other_messages_are_ignored(page: Page, complaints: list[str], code: str) -> None:
    page.evaluate(f"() => {{ {code}; }}")
    page.wait_for_timeout(50)
    assert complaints == []
