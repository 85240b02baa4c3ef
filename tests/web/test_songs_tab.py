"""The Songs tab of the sidebar: folders, filters, captions written in the row, and changes of many songs."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from demo.browser import configure, open_page
from demo.server import ComfyUI
from sidestep_core.songs.scan import find_songs
from tests.web import screenshots
from tests.web.accessibility import assert_accessible
from tests.web.test_train_on_my_songs import write_song

PATIENCE = 60_000
MANY = 2000
SECONDS = 20.0
"""Longest wait for a table of so many songs, on a machine that does other things too."""


@pytest.fixture(scope="module")
def page(browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """ComfyUI's page; the sidebar is the same in both render modes."""
    configure(server, nodes_2=False)
    with open_page(browser, server, width=1500, height=950) as opened:
        yield opened


@pytest.fixture
def folder(server: ComfyUI, request: pytest.FixtureRequest) -> Path:
    """The demo's songs and one without a caption, for each test its own."""
    found = server.base / "input" / request.node.name
    shutil.copytree(server.base / "input" / "demo_songs", found)
    write_song(found / "bare.wav")
    return found


@pytest.fixture
def tab(page: Page, folder: Path) -> Locator:
    """The tab with that folder."""
    page.evaluate("() => window.app.extensionManager.command.execute('SideStep.ShowSongs')")
    opened = page.locator(".sidestep-songs-tab")
    # Every folder has four songs: none must be in the table when this one is awaited.
    opened.locator(".sidestep-folder select").select_option("")
    expect(opened.locator(".sidestep-name")).to_have_count(0)
    opened.get_by_text("Look again").evaluate("button => { button.disabled = false; button.click(); }")
    opened.locator(".sidestep-folder option", has_text=folder.name).wait_for(state="attached", timeout=PATIENCE)
    opened.locator(".sidestep-folder select").select_option(f"input:{folder.name}")
    expect(opened.locator(".sidestep-title")).to_have_text("4 songs", timeout=PATIENCE)
    return opened


def names(tab: Locator) -> Locator:
    return tab.locator(".sidestep-name")


def test_filters_leave_fitting_songs(tab: Locator) -> None:
    tab.get_by_text("No caption (1)").click()
    expect(names(tab)).to_have_text(["bare.wav"])
    expect(tab.locator(".sidestep-title")).to_have_text("1 of 4 songs")
    tab.get_by_text("All", exact=True).click()
    expect(names(tab)).to_have_count(4)
    tab.get_by_label("Find a song").fill("WALTZ")
    expect(names(tab)).to_have_text(["paper waltz.ogg"])


def test_caption_is_written_in_row(tab: Locator, folder: Path) -> None:
    tab.get_by_label("Caption of bare.wav: No caption").focus()
    page = tab.page
    page.keyboard.press("Enter")
    page.keyboard.type("a single tone")
    page.keyboard.press("Escape")
    expect(tab).to_contain_text("Not saved yet.")
    page.keyboard.press("Enter")
    expect(tab.get_by_label("Caption of bare.wav: a single tone")).to_be_visible()
    assert {song.name: song.caption for song in find_songs(folder).songs}["bare.wav"] == "a single tone"


def test_both_render_modes_write_captions(tab: Locator, page: Page, folder: Path) -> None:
    """The sidebar lies outside of the canvas, whose render mode changes below it."""
    before = "No caption"
    for nodes_2 in (True, False):
        page.evaluate("on => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", nodes_2)
        assert bool(page.evaluate("() => LiteGraph.vueNodesMode")) == nodes_2
        caption = f"Nodes 2.0 is {nodes_2}"
        tab.get_by_label(f"Caption of bare.wav: {before}").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Control+A")
        page.keyboard.type(caption)
        page.keyboard.press("Enter")
        expect(tab.get_by_label(f"Caption of bare.wav: {caption}")).to_be_visible()
        assert {song.name: song.caption for song in find_songs(folder).songs}["bare.wav"] == caption
        before = caption


def test_bulk_edit_changes_announced_songs(tab: Locator, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    tab.get_by_text("Change many songs").click()
    tab.get_by_label("What to change").select_option("genre")
    tab.get_by_label("Genre", exact=True).fill("waltz")
    apply = tab.get_by_text("Change 3 songs")
    expect(tab.locator(".sidestep-bulk")).to_contain_text("bare.wav, neon drive.wav, slow rain.flac")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    apply.click()
    expect(tab).to_contain_text("3 songs changed. Previous files are kept as .bak.")
    assert {song.genre for song in find_songs(folder).songs} == {"waltz"}
    assert (folder / "neon drive.txt.bak").read_bytes() == before["neon drive.txt"]
    tab.get_by_label("What to change").select_option("replace")
    tab.get_by_label("Find", exact=True).fill("slow")
    tab.get_by_label("New text").fill("fast")
    tab.get_by_text("Change 1 song", exact=True).click()
    expect(tab).to_contain_text("1 song changed.")
    assert "fast drums" in {song.name: song.caption for song in find_songs(folder).songs}["slow rain.flac"]
    tab.get_by_text("Change many songs").click()


def test_shared_styles_come_first(page: Page) -> None:
    sheets = page.evaluate("() => [...document.querySelectorAll('.sidestep-styles')].map(({ href }) => href)")
    assert len(sheets) > 3
    assert [sheet.endswith("/sidestep.css") for sheet in sheets] == [True] + [False] * (len(sheets) - 1)


def test_drawer_has_full_height(tab: Locator, page: Page) -> None:
    tab.locator(".sidestep-edit").first.click()
    box = page.locator("dialog.sidestep-drawer").bounding_box()
    assert box is not None
    assert (box["y"], box["height"], box["x"] + box["width"]) == (0, 950, 1500)
    page.keyboard.press("Escape")
    expect(page.locator("dialog.sidestep-drawer")).to_have_count(0)


def test_arrows_move_between_rows(tab: Locator, page: Page) -> None:
    tab.locator(".sidestep-play").first.focus()
    page.keyboard.press("ArrowDown")
    expect(tab.locator(".sidestep-play").nth(1)).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(tab.locator(".sidestep-play").first).to_be_focused()


def test_tab_is_accessible(tab: Locator, page: Page) -> None:
    tab.get_by_text("Change many songs").click()
    tab.locator(".sidestep-write").first.click()
    assert_accessible(page, ".sidestep-songs-tab")
    screenshots.keep(page, "songs")
    page.keyboard.press("Escape")
    tab.get_by_text("Change many songs").click()
    tab.locator(".sidestep-edit").first.click()
    assert_accessible(page, "dialog.sidestep-drawer")
    screenshots.keep(page, "songs-drawer")
    page.keyboard.press("Escape")


def test_many_songs_stay_smooth(tab: Locator, server: ComfyUI) -> None:
    many = server.base / "input" / "many songs"
    if not many.exists():
        many.mkdir()
        write_song(many / "0000.wav", 0.1)
        for number in range(1, MANY):
            (many / f"{number:04}.wav").hardlink_to(many / "0000.wav")
    tab.get_by_text("Look again").click()
    tab.locator(".sidestep-folder option", has_text="many songs").wait_for(state="attached", timeout=PATIENCE)
    began = time.monotonic()
    tab.locator(".sidestep-folder select").select_option("input:many songs")
    expect(tab.locator(".sidestep-title")).to_have_text("1 - 20 of 2,000", timeout=PATIENCE)
    assert time.monotonic() - began < SECONDS
    assert tab.locator("[role=row]").count() == 20
    tab.get_by_label("Find a song").fill("1999")
    expect(names(tab)).to_have_text(["1999.wav"])
    tab.get_by_label("Find a song").fill("")
    expect(tab.locator(".sidestep-title")).to_have_text("1 - 20 of 2,000")
