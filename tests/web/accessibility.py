"""Accessibility of a part of the page, by axe-core."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

GRAVE = ("serious", "critical")


def assert_accessible(page: Page, selector: str) -> None:
    """Assert that what `selector` finds on the page has no serious and no critical violation."""
    assert page.locator(selector).count(), f"The page has no {selector}."
    found = Axe().run(page, selector).response["violations"]
    grave = [violation for violation in found if violation["impact"] in GRAVE]
    assert not grave, "\n".join(_lines(grave))


def _lines(violations: list[dict[str, object]]) -> list[str]:
    return [f"{each['id']} ({each['impact']}): {each['help']}: {node['html']} {node['failureSummary']}"
            for each in violations for node in each["nodes"]]  # type: ignore[attr-defined]
