"""From songs on a person's disk to a sound, in three clicks after the command "Train on my songs"."""

from __future__ import annotations

import array
import math
import shutil
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from demo.browser import configure, open_page
from demo.server import ComfyUI
from tests.web import screenshots
from tests.web.accessibility import assert_accessible

RATE = 48_000
PATIENCE = 240_000
"""Milliseconds for a training and a generation on a machine that does other things too."""
COMMAND = "() => window.app.extensionManager.command.execute('SideStep.TrainOnMySongs')"
MADE = """() => Object.values(window.app.nodeOutputs ?? {}).flatMap(({ audio }) => audio ?? [])
    .find(({ type }) => type === 'output')"""
"""The saved audio, once the page has it."""
SHORTEN = """() => { // the proposal is for a person, who waits longer than a test
    const set = (type, name, value) => {
        const node = window.app.graph.nodes.find(each => each.type === type);
        node.widgets.find(widget => widget.name === name).value = value;
    };
    set('SideStepTrainAdapter', 'max_steps', 2);
    set('TextEncodeAceStepAudio1.5', 'duration', 2);
    set('EmptyAceStep1.5LatentAudio', 'seconds', 2);
    set('KSampler', 'steps', 2);
}"""
LINKED = """() => window.app.graph.nodes.flatMap(node => (node.inputs ?? [])
    .filter(({ link, widget }) => link == null && !widget).map(({ name }) => `${node.type}.${name}`))"""
"""Inputs without a link."""
OVERLAPS = """() => window.app.graph.nodes.filter(({ flags }) => !flags.collapsed).flatMap((a, index, nodes) => nodes
    .filter(b => b.id > a.id && a.pos[0] < b.pos[0] + b.size[0] && b.pos[0] < a.pos[0] + a.size[0]
        && a.pos[1] - 30 < b.pos[1] + b.size[1] && b.pos[1] - 30 < a.pos[1] + a.size[1])
    .map(b => `${a.type} ${b.type}`))"""


def write_song(path: Path, seconds: float = 1.5, hertz: float = 220.0) -> None:
    """Write a WAV file with a tone."""
    samples = (round(9000 * math.sin(2 * math.pi * hertz * index / RATE)) for index in range(round(seconds * RATE)))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(array.array("h", samples).tobytes())


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's folder: songs with a caption, an emoji in a name, an empty song, and a file of another kind."""
    folder = tmp_path_factory.mktemp("disk") / "Night Tapes"
    (folder / "live").mkdir(parents=True)
    write_song(folder / "drive.wav")
    (folder / "drive.txt").write_text("caption: slow synthwave\nbpm: 90\n", encoding="utf-8")
    write_song(folder / "live" / "encore \U0001f3b8.wav", hertz=330.0)
    (folder / "empty.mp3").touch()
    (folder / "setup.exe").write_bytes(b"MZ")
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes-2"])
def page(request: pytest.FixtureRequest, browser: Browser, server: ComfyUI) -> Iterator[Page]:
    configure(server, nodes_2=request.param)
    with open_page(browser, server, width=1500, height=950) as opened:
        yield opened


@pytest.fixture
def dialog(page: Page) -> Iterator[Locator]:
    page.evaluate(COMMAND)
    opened = page.locator(".sidestep-train-dialog")
    yield opened
    if opened.count():
        opened.locator(".sidestep-edit-foot").get_by_text("Cancel").click()


def uploaded(dialog: Locator, songs: Path, name: str) -> None:
    """Choose a folder, and wait until its songs are proposed under this name."""
    with dialog.page.expect_file_chooser() as chooser:
        dialog.get_by_text("Choose a folder").click()
    chooser.value.set_files(songs)
    expect(dialog.locator("[name=folder]")).to_have_value(name, timeout=PATIENCE)
    expect(dialog.locator(".sidestep-plan")).to_be_visible(timeout=PATIENCE)


def test_songs_reach_canvas(dialog: Locator, page: Page, server: ComfyUI, mine: Path) -> None:
    """Click 1 chooses the folder, in the dialog of the system, click 2 puts the graph there. No field is filled.

    The second mode gets the name that the first has left free.
    """
    taken = (server.base / "input" / "Night Tapes").exists()
    name = "Night Tapes-2" if taken else "Night Tapes"
    uploaded(dialog, mine, name)
    expect(dialog.locator(".sidestep-plan")).to_contain_text("2 songs, 3 seconds of music, 1 song without a caption.")
    expect(dialog.locator(".sidestep-reasons")).to_contain_text("empty.mp3 It is empty (0 bytes).")
    expect(dialog.locator(".sidestep-reasons")).to_contain_text("setup.exe .exe is neither audio nor a text about it.")
    below = server.base / "input" / name
    assert sorted(path.relative_to(below).as_posix() for path in below.rglob("*") if path.is_file()) == [
        "drive.txt", "drive.wav", "live/encore \U0001f3b8.wav"]
    before = page.evaluate("() => window.app.extensionManager.workflow.openWorkflows.length")
    dialog.get_by_text("Put it on the canvas").click()
    expect(dialog).to_have_count(0, timeout=PATIENCE)
    assert page.evaluate("() => window.app.extensionManager.workflow.openWorkflows.length") == before + 1
    assert set(page.evaluate(LINKED)) == {"SideStepPreprocessAudioFolder.songs", "SideStepTrainAdapter.settings",
                                          "SideStepTrainAdapter.start_from", "SideStepConfigureLoRA.estimate"}
    assert page.evaluate(OVERLAPS) == []


@pytest.mark.slow
def test_canvas_becomes_sound(page: Page, server: ComfyUI) -> None:
    """Click 3 trains and generates; only once, as the modes share everything behind the click."""
    if (server.base / "models" / "loras" / "Night Tapes.safetensors").exists():
        return
    page.evaluate(SHORTEN)
    page.get_by_test_id("queue-button").click()
    made = page.wait_for_function(MADE, timeout=PATIENCE).json_value()
    assert (server.base / "output" / made["subfolder"] / made["filename"]).stat().st_size > 1000
    assert (server.base / "models" / "loras" / "Night Tapes.safetensors").is_file()


def test_cancel_stops_upload(dialog: Locator, page: Page, server: ComfyUI, tmp_path: Path) -> None:
    held = tmp_path / "Held"
    held.mkdir()
    for number in range(3):
        write_song(held / f"{number}.wav")
    unanswered: list[Route] = []
    page.route("**/upload/image", lambda route: unanswered.append(route))  # Playwright takes no method of a list
    with page.expect_file_chooser() as chooser:
        dialog.get_by_text("Choose a folder").click()
    with page.expect_request("**/upload/image"):
        chooser.value.set_files(held)
    zone = dialog.locator(".sidestep-drop")
    zone.get_by_text("Cancel", exact=True).click()
    expect(zone).to_contain_text("Cancelled. 0 of 3 files are in input/Held.")
    [request] = unanswered
    request.abort()  # else the browser may send on what the page has cancelled
    page.unroute("**/upload/image")
    assert not (server.base / "input" / "Held").exists()


def test_refused_upload_is_named(dialog: Locator, page: Page, tmp_path: Path) -> None:
    write_song(tmp_path / "one.wav")
    page.route("**/upload/image", lambda route: route.fulfill(status=413))
    with page.expect_file_chooser() as chooser:
        dialog.get_by_text("Choose files").click()
    chooser.value.set_files(tmp_path / "one.wav")
    expect(dialog.locator(".sidestep-reasons")).to_contain_text("one.wav It is larger than this ComfyUI takes.")
    expect(dialog.locator(".sidestep-drop")).to_contain_text("Nothing was uploaded.")
    page.unroute("**/upload/image")


def test_songs_in_input_are_offered(dialog: Locator, older: str) -> None:
    dialog.get_by_text("Look again").click()
    expect(dialog.locator("[name=folder] option", has_text=f"{older} (3 songs)")).to_have_count(1)
    dialog.locator("[name=folder]").select_option(older)
    expect(dialog.locator(".sidestep-plan")).to_be_visible(timeout=PATIENCE)
    assert_accessible(dialog.page, ".sidestep-train-dialog")
    screenshots.keep(dialog, "train-on-my-songs")
    dialog.locator("[name=preset]").select_option("high_quality")
    expect(dialog.locator(".sidestep-summary")).to_contain_text("much time and room")
    dialog.locator("[name=name]").fill("a/b")
    expect(dialog.locator("[name=trigger_word]")).to_have_value("a_b")


@pytest.fixture
def older(server: ComfyUI) -> str:
    folder = server.base / "input" / "older songs"
    if not folder.exists():
        shutil.copytree(server.base / "input" / "demo_songs", folder)
    return folder.name
