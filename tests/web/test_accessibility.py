"""The check of accessibility can fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.web.accessibility import assert_accessible


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        yield context.new_page()


@pytest.mark.parametrize(("content", "rule"), [
    ("<button></button>", "button-name"), ("<input>", "label"), ("<div role=row>1</div>", "aria-required-parent"),
    ("<p style='color: #777; background: #666'>Text</p>", "color-contrast")])
def test_violation_is_found(page: Page, content: str, rule: str) -> None:
    page.set_content(f"<main id=part>{content}</main>")
    with pytest.raises(AssertionError, match=rule):
        assert_accessible(page, "#part")


def test_missing_part_is_found(page: Page) -> None:
    with pytest.raises(AssertionError, match="The page has no #part"):
        assert_accessible(page, "#part")


def test_accessible_part_passes(page: Page) -> None:
    page.set_content("<main id=part><button>Play</button><label>Name <input></label></main><button></button>")
    assert_accessible(page, "#part")
