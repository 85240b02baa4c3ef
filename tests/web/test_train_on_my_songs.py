"""From songs on a person's disk to a sound, in three clicks after the command "Train on my songs"."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from demo.browser import configure, open_page
from demo.server import ComfyUI

PATIENCE = 240_000
"""Milliseconds for a training and a generation on a machine that does other things too."""
MADE = """() => Object.values(window.app.nodeOutputs ?? {}).flatMap(({ audio }) => audio ?? [])
    .find(({ type }) => type === 'output')"""
"""The saved audio, once the page has it."""
COMMAND = "() => window.app.extensionManager.command.execute('SideStep.TrainOnMySongs')"


@pytest.fixture(scope="module")
def mine(server: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's folder: songs with sidecars, an emoji in a name, an empty song, and a file of another kind."""
    folder = tmp_path_factory.mktemp("disk") / "Night Tapes"
    shutil.copytree(server.base / "input" / "demo_songs", folder)
    (folder / "live").mkdir()
    shutil.copy(folder / "neon drive.wav", folder / "live" / "encore \U0001f3b8.wav")
    (folder / "empty.mp3").touch()
    (folder / "setup.exe").write_bytes(b"MZ")
    return folder


@pytest.fixture(params=[False, True], ids=["classic", "nodes-2"])
def page(request: pytest.FixtureRequest, browser: Browser, server: ComfyUI) -> Iterator[Page]:
    configure(server, nodes_2=request.param)
    with open_page(browser, server, width=1500, height=950) as opened:
        yield opened


def test_songs_become_sound_in_three_clicks(page: Page, server: ComfyUI, mine: Path) -> None:
    """Click 1 chooses the folder (its dialog is the system's), 2 puts the graph on the canvas, 3 runs it.

    No field is filled: without a graphics card the proposal is the quick test, a few steps.
    """
    page.evaluate(COMMAND)
    dialog = page.locator(".sidestep-train-dialog")
    with page.expect_file_chooser() as chooser:
        dialog.get_by_text("Choose a folder").click()
    chooser.value.set_files(mine)
    expect(dialog.locator(".sidestep-plan")).to_contain_text("4 songs", timeout=PATIENCE)
    expect(dialog.locator(".sidestep-reasons")).to_contain_text("empty.mp3 It is empty (0 bytes).")
    expect(dialog.locator(".sidestep-reasons")).to_contain_text("setup.exe .exe is neither audio nor a text about it.")
    name = dialog.locator("[name=folder]").input_value()
    assert name.startswith("Night Tapes")
    uploaded = server.base / "input" / name
    assert sorted(path.relative_to(uploaded).as_posix() for path in uploaded.rglob("*") if path.is_file()) == [
        "live/encore \U0001f3b8.wav", "neon drive.txt", "neon drive.wav", "paper waltz.json", "paper waltz.ogg",
        "slow rain.caption.txt", "slow rain.flac", "slow rain.lyrics.txt"]
    dialog.get_by_text("Put it on the canvas").click()
    expect(dialog).to_have_count(0)
    page.get_by_test_id("queue-button").click()
    made = page.wait_for_function(MADE, timeout=PATIENCE).json_value()
    assert (server.base / "output" / made["subfolder"] / made["filename"]).stat().st_size > 1000
    assert (server.base / "models" / "loras" / f"{name}.safetensors").is_file()
