"""The table of songs in the real page, in both render modes: shown, played, corrected, and safe with hostile names."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from demo.browser import configure, open_page
from demo.examples import GENERATE
from demo.server import ComfyUI
from sidestep_core.songs.scan import find_songs
from tests.host.test_datasets import CAPTIONS, NAMES, building, files_of, node

PATIENCE = 60_000
"""Milliseconds; for a machine that does other things too."""
HOSTILE = "<img src=x onerror=alert(1)>"
MANY = 45
ROOM = 100
"""Pixels that a text needs to be written in."""
WAVE = re.compile("^M")


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes-2"])
def page(request: pytest.FixtureRequest, browser: Browser, server: ComfyUI) -> Iterator[Page]:
    """ComfyUI's page in one of its two render modes."""
    configure(server, nodes_2=request.param)
    with open_page(browser, server, width=1500, height=1000) as opened:
        yield opened


@pytest.fixture
def folder(server: ComfyUI, request: pytest.FixtureRequest) -> Path:
    """A copy of the demo's songs, for each test in each mode its own."""
    mode = request.node.callspec.id
    found = server.base / "input" / f"{request.node.originalname} {mode}"
    shutil.copytree(server.base / "input" / "demo_songs", found)
    return found


def show(page: Page, prompt: dict[str, Any]) -> Locator:
    """Open the prompt as a new workflow and run it; the first table with songs."""
    page.evaluate("""async prompt => {
        window.app.loadApiJson(prompt, 'songs');
        const graph = window.app.graph.serialize();
        delete graph.id;
        await window.app.loadGraphData(graph, true, true, 'songs');
        void window.app.queuePrompt(0);
    }""", prompt)
    table = page.locator(".sidestep-songs").first
    expect(table.locator("[role=row]").first).to_be_visible(timeout=PATIENCE)
    return table


def edit(table: Locator, name: str) -> Locator:
    """The open dialog of a song."""
    row(table, name).locator(".sidestep-edit").click()
    return table.page.locator("dialog.sidestep-dialog")


def row(table: Locator, name: str) -> Locator:
    return table.locator(".sidestep-list > div", has=table.page.locator(".sidestep-name", has_text=name))


def test_songs_stay_after_reload(page: Page, folder: Path) -> None:
    (folder / "broken.mp3").touch()
    table = show(page, {"1": building(folder=folder.name)})
    expect(table).to_contain_text("3 songs")
    expect(table.locator(".sidestep-name")).to_have_text(NAMES)
    expect(table.locator(".sidestep-caption")).to_have_text(CAPTIONS)
    expect(table.locator(".sidestep-time")).to_have_text(["0:06", "0:10", "0:08"])
    expect(table.locator(".sidestep-bpm")).to_have_text(["120", "100", "-"])
    expect(table.locator(".sidestep-key")).to_have_text(["A minor", "G major", "-"])
    expect(table.locator("summary")).to_have_text("1 file left out")
    table.locator("summary").click()
    expect(table.locator(".sidestep-reasons")).to_contain_text("broken.mp3")
    for name in NAMES:
        expect(row(table, name).locator(".sidestep-quiet")).to_have_attribute("d", WAVE, timeout=PATIENCE)
    page.evaluate("async () => { await window.app.loadGraphData(window.app.graph.serialize()); }")
    expect(page.locator(".sidestep-songs").first.locator(".sidestep-name")).to_have_text(NAMES)


def test_song_loads_when_played(page: Page, folder: Path) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/audio" in request.url else None)
    shutil.copy(folder / NAMES[0], folder / "odd.wma")
    table = show(page, {"1": building(folder=folder.name)})
    audio = table.locator("audio")
    assert asked == []
    for name, address in ((NAMES[0], "/0/audio"), ("odd.wma", "as=flac")):
        row(table, name).locator(".sidestep-play").click()
        expect(row(table, name).locator(".sidestep-play")).to_have_attribute("aria-pressed", "true")
        page.wait_for_function("audio => audio.readyState >= 3 && audio.currentTime > 0.3", arg=audio.element_handle(),
                               timeout=PATIENCE)
        assert audio.evaluate("audio => audio.duration") == pytest.approx(6.0, abs=0.1)
        assert address in asked[-1]
    expect(row(table, NAMES[0]).locator(".sidestep-play")).to_have_attribute("aria-pressed", "false")
    row(table, "odd.wma").locator(".sidestep-wave").click()  # its middle
    page.wait_for_function("audio => audio.currentTime >= 3", arg=audio.element_handle(), timeout=PATIENCE)
    row(table, "odd.wma").locator(".sidestep-play").click()
    expect(row(table, "odd.wma").locator(".sidestep-play")).to_have_attribute("aria-pressed", "false")


def test_edit_reaches_the_next_run(page: Page, folder: Path) -> None:
    before = files_of(folder)
    table = show(page, {"1": building(folder=folder.name)})
    editor = edit(table, NAMES[0])
    expect(editor.locator("[name=bpm]")).to_have_value("120")
    editor.locator("[name=caption]").fill("a quiet march")
    editor.locator("[name=bpm]").fill("fast")
    editor.get_by_text("Save", exact=True).click()
    expect(editor).to_contain_text("bpm")
    assert files_of(folder) == before
    editor.locator("[name=bpm]").fill("88")
    editor.get_by_text("Save", exact=True).click()
    expect(editor).to_have_count(0)
    expect(row(table, NAMES[0]).locator(".sidestep-caption")).to_have_text("a quiet march")
    expect(table).to_contain_text("Run the workflow again")
    written = find_songs(folder).songs[0]
    assert (written.caption, written.bpm, written.key) == ("a quiet march", 88, "A minor")
    assert [path.read_bytes() for path in folder.glob("*.bak")] == [before["neon drive.txt"][0]]

    shown = table.evaluate("() => window.app.graph.nodes[0].properties.songs")
    page.evaluate("() => void window.app.queuePrompt(0)")
    page.wait_for_function("key => window.app.graph.nodes[0].properties.songs !== key", arg=shown, timeout=PATIENCE)
    expect(table.locator(".sidestep-bpm").first).to_have_text("88")


def test_editor_fits_the_template(page: Page, server: ComfyUI, folder: Path) -> None:
    template = json.loads(GENERATE.file.read_text(encoding="utf-8"))
    show(page, {"1": building(folder=folder.name)})
    songs = page.evaluate("() => window.app.graph.nodes.find(node => node.properties.songs).properties.songs")
    page.evaluate("graph => window.app.loadGraphData(graph)", template)
    page.evaluate("""songs => {
        const node = window.app.graph.nodes.find(node => node.type === 'SideStepPreprocessAudioFolder');
        node.onExecuted({ sidestep: [{ preview: songs }] });
    }""", songs)
    table = page.locator(".sidestep-songs").first
    expect(table.locator("[role=row]").first).to_be_visible(timeout=PATIENCE)
    editor = edit(table, NAMES[0])
    window = page.viewport_size
    assert window is not None
    for field in ("caption", "lyrics"):
        box = editor.locator(f"[name={field}]").bounding_box()
        assert box is not None
        assert box["height"] >= ROOM
        assert box["width"] >= ROOM
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= window["height"]
    page.keyboard.press("Escape")
    expect(editor).to_have_count(0)


def test_unsaved_text_is_kept(page: Page, folder: Path) -> None:
    table = show(page, {"1": building(folder=folder.name)})
    editor = edit(table, NAMES[0])
    caption = editor.locator("[name=caption]")
    expect(caption).to_be_focused()
    page.keyboard.press("Escape")
    expect(editor).to_have_count(0)
    edit(table, NAMES[0])
    caption.fill("half a thought")
    for _ in range(3):
        page.keyboard.press("Escape")
    expect(caption).to_have_value("half a thought")
    expect(editor).to_contain_text("Not saved yet")
    editor.get_by_text("Discard", exact=True).click()
    expect(editor).to_have_count(0)
    expect(edit(table, NAMES[0]).locator("[name=caption]")).to_have_value(CAPTIONS[0])
    caption.fill("said with keys")
    page.keyboard.press("Control+Enter")
    expect(editor).to_have_count(0)
    expect(row(table, NAMES[0]).locator(".sidestep-caption")).to_have_text("said with keys")


@pytest.mark.usefixtures("page")  # sets the render mode
def test_reload_asks_about_unsaved_text(browser: Browser, server: ComfyUI, folder: Path) -> None:
    with open_page(browser, server) as own:
        table = show(own, {"1": building(folder=folder.name)})
        edit(table, NAMES[0]).locator("[name=caption]").press_sequentially("half a thought")
        # Not `goto`, which would wait for the answer to the dialog: now and then both waited for ever.
        with own.expect_event("dialog") as asked:
            own.evaluate("() => void setTimeout(() => window.location.reload())")
        assert asked.value.type == "beforeunload"
        asked.value.dismiss()


def test_unsaved_text_outlives_a_run(page: Page, folder: Path) -> None:
    table = show(page, {"1": building(folder=folder.name)})
    editor = edit(table, NAMES[0])
    caption = editor.locator("[name=caption]")
    caption.fill("half a thought")
    (folder / "slow rain.caption.txt").write_text("now it is loud", encoding="utf-8")
    (folder / "neon drive.txt").write_text("caption: changed elsewhere\nbpm: 99\n", encoding="utf-8")
    page.evaluate("() => void window.app.queuePrompt(0)")
    expect(table.locator(".sidestep-caption").nth(2)).to_have_text("now it is loud", timeout=PATIENCE)
    expect(caption).to_have_value("half a thought")
    expect(editor.locator("[name=bpm]")).to_have_value("99")
    editor.get_by_text("Save", exact=True).click()
    expect(table).to_contain_text("is saved")
    assert [song.caption for song in find_songs(folder).songs] == ["half a thought", CAPTIONS[1], "now it is loud"]


def test_hostile_name_is_only_text(page: Page, folder: Path) -> None:
    alarms: list[str] = []
    page.on("dialog", lambda dialog: (alarms.append(dialog.message), dialog.dismiss()))
    (folder / NAMES[0]).rename(folder / f"{HOSTILE}.wav")
    (folder / f"{HOSTILE}.txt").write_text(f"caption: {HOSTILE}\nkey: {HOSTILE}", encoding="utf-8")
    (folder / f"{HOSTILE}.mp3").touch()
    table = show(page, {"1": building(folder=folder.name)})
    expect(table.locator(".sidestep-name").first).to_have_text(f"{HOSTILE}.wav")
    expect(table.locator(".sidestep-caption").first).to_have_text(HOSTILE)
    editor = edit(table, HOSTILE)
    expect(editor.locator("[name=caption]")).to_have_value(HOSTILE)
    expect(editor.locator("h2")).to_have_text(f"{HOSTILE}.wav")
    page.wait_for_timeout(500)
    assert table.locator("img").count() + editor.locator("img").count() == 0
    page.keyboard.press("Escape")
    assert alarms == []


def test_many_songs_are_paged(page: Page, folder: Path) -> None:
    for number in range(MANY - len(NAMES)):
        shutil.copy(folder / "paper waltz.ogg", folder / f"waltz {number:02}.ogg")
    table = show(page, {"1": building(folder=folder.name)})
    expect(table).to_contain_text(f"1 - 20 of {MANY}")
    expect(table.locator("[role=row]")).to_have_count(20)
    table.get_by_text("Next").click()
    expect(table).to_contain_text(f"21 - 40 of {MANY}")
    table.get_by_text("Next").click()
    expect(table).to_contain_text(f"41 - {MANY} of {MANY}")
    expect(table.locator("[role=row]")).to_have_count(MANY - 40)
    table.get_by_text("Previous").click()
    expect(table).to_contain_text(f"21 - 40 of {MANY}")


def test_bulk_write_asks_twice(page: Page, folder: Path) -> None:
    before = files_of(folder)
    prompt = {"1": building(folder=folder.name), "3": node("SideStepSongAudio", songs=["1", 0], seconds=1.0, start=0.0),
              "4": node("StringConcatenate", string_a="about", string_b=["3", 1], delimiter=" "),
              "2": node("SideStepCaptionSongs", songs=["1", 0], captions=["4", 0], replace=True)}
    show(page, prompt)
    page.evaluate("""() => {
        const { canvas, graph } = window.app;
        const { pos } = graph.nodes.find(node => node.type === 'SideStepCaptionSongs');
        canvas.ds.scale = 1;
        canvas.ds.offset = [300 - pos[0], 200 - pos[1]];
        canvas.setDirty(true, true);
    }""")
    table = page.locator(".sidestep-songs", has_text="about")
    expect(table.locator(".sidestep-caption").first).to_have_text(f"about {NAMES[0]}", timeout=PATIENCE)
    table.locator("button", has_text="Save all to files").click()
    expect(table).to_contain_text("Press again")
    assert files_of(folder) == before
    table.locator("button", has_text="Press again").click()
    expect(table).to_contain_text("3 songs saved")
    assert [song.caption for song in find_songs(folder).songs] == [f"about {name}" for name in NAMES]


def test_connected_songs_disable_folder(page: Page) -> None:
    page.evaluate("""() => {
        const { graph } = window.app;
        graph.clear();
        const build = graph.add(LiteGraph.createNode('SideStepBuildDataset'));
        const encode = graph.add(LiteGraph.createNode('SideStepPreprocessAudioFolder'));
        build.connect('songs', encode, 'songs');
    }""")
    disabled = """() => window.app.graph.nodes.find(node => node.type === 'SideStepPreprocessAudioFolder').widgets
        .filter(widget => widget.disabled).map(widget => widget.name)"""
    assert page.evaluate(disabled) == ["folder"]
    page.evaluate("""() => window.app.graph.nodes.find(node => node.type === 'SideStepPreprocessAudioFolder')
        .disconnectInput('songs')""")
    assert page.evaluate(disabled) == []
