"""The sidebar tab "Side-Step": opened by its icon and by commands, used with the keyboard."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from demo.browser import configure, load
from demo.server import ComfyUI
from tests.web.accessibility import assert_accessible

ICON = ".side-step-tab-button"


def selected(page: Page) -> str:
    return page.locator(".sidestep-sidebar [role=tab][aria-selected=true]").inner_text()


def run_command(page: Page, name: str) -> None:
    page.evaluate("name => window.app.extensionManager.command.execute(name)", name)


def test_icon_toggles_the_sidebar(page: Page) -> None:
    page.locator(ICON).click()
    expect(page.locator(".sidestep-sidebar")).to_be_visible()
    page.locator(ICON).click()
    expect(page.locator(".sidestep-sidebar")).to_have_count(0)


def test_arrow_keys_switch_tabs(page: Page) -> None:
    run_command(page, "SideStep.ShowSongs")
    expect(page.get_by_role("tab", name="Songs")).to_be_focused()
    found = []
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Home", "End"):
        page.keyboard.press(key)
        found.append(selected(page))
    assert found == ["Runs", "Listen", "Songs", "Listen", "Songs", "Listen"]
    expect(page.get_by_role("tabpanel", name="Listen")).to_be_visible()
    expect(page.locator(".sidestep-sidebar [role=tabpanel]:visible")).to_have_count(1)


@pytest.mark.parametrize(("command", "tab"), [
    ("SideStep.ShowSongs", "Songs"), ("SideStep.ShowRuns", "Runs"), ("SideStep.Listen", "Listen")])
def test_commands_open_their_tab(page: Page, command: str, tab: str) -> None:
    run_command(page, command)
    expect(page.get_by_role("tabpanel", name=tab)).to_be_visible()


def test_latest_tab_is_remembered(page: Page, server: ComfyUI) -> None:
    run_command(page, "SideStep.ShowRuns")
    load(page, server.address)
    page.locator(ICON).click()
    assert selected(page) == "Runs"


def test_other_sidebar_tabs_take_over(page: Page) -> None:
    run_command(page, "SideStep.ShowRuns")
    page.locator(".workflows-tab-button").click()
    expect(page.locator(".sidestep-sidebar")).to_have_count(0)
    run_command(page, "SideStep.ShowRuns")
    expect(page.locator(".sidestep-sidebar")).to_be_visible()


@pytest.mark.parametrize("palette", ["dark", "light"])
def test_sidebar_is_accessible(page: Page, server: ComfyUI, palette: str) -> None:
    configure(server, nodes_2=False, palette=palette)
    load(page, server.address)
    for command in ("SideStep.ShowSongs", "SideStep.ShowRuns", "SideStep.Listen"):
        run_command(page, command)
        expect(page.locator(".sidestep-sidebar")).to_be_visible()
        assert_accessible(page, ".sidestep-sidebar")
