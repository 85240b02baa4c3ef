"""Folders of the Songs tab: listed by name, read by name alone, changed in bulk, proposed for a first training."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from demo.server import ComfyUI
from sidestep_core.songs.scan import find_songs

MODEL = "acestep_v1.5_demo_turbo.safetensors"


def post(server: ComfyUI, path: str, body: object) -> tuple[int, Any]:
    """Status, and the answer or the text of a refusal."""
    request = urllib.request.Request(f"{server.address}/sidestep/{path}", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def folder(server: ComfyUI, request: pytest.FixtureRequest) -> Path:
    """A copy of the demo's songs, for each test its own."""
    found = server.base / "input" / request.node.name.partition("[")[0]
    shutil.rmtree(found, ignore_errors=True)
    shutil.copytree(server.base / "input" / "demo_songs", found)
    return found


def test_folder_is_listed_and_read(server: ComfyUI, folder: Path) -> None:
    (server.base / "input" / "no songs").mkdir(exist_ok=True)
    listed = {each["name"]: each["songs"] for each in server.get_json("/sidestep/song_folders")["input"]}
    assert listed[folder.name] == 3
    assert "no songs" not in listed
    status, found = post(server, "song_folders/scan", {"folder": folder.name})
    assert (status, found["songs"]) == (200, 3)
    page = server.get_json(f"/sidestep/songs/{found['preview']}?only=no_caption")
    assert (page["total"], page["all"], page["counts"]) == (0, 3, {"all": 3, "no_caption": 0, "problems": 0})
    assert str(server.base) not in json.dumps([found, page, server.get_json("/sidestep/song_folders")])


@pytest.mark.parametrize("name", ["..", ".", "", "../models", "/etc", "demo_songs/..", "demo_songs/../demo_songs", 7])
def test_only_listed_names_are_read(server: ComfyUI, name: object) -> None:
    status, reason = post(server, "song_folders/scan", {"folder": name})
    assert status == 422
    assert "songs" in reason or "folder" in reason


def test_linked_folder_is_not_listed(server: ComfyUI, tmp_path: Path) -> None:
    shutil.copytree(server.base / "input" / "demo_songs", tmp_path / "outside")
    link = server.base / "input" / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "outside", target_is_directory=True)
    assert "link" not in {each["name"] for each in server.get_json("/sidestep/song_folders")["input"]}
    assert post(server, "song_folders/scan", {"folder": "link"})[0] == 422


def test_bulk_edit_spares_edits_made_elsewhere(server: ComfyUI, folder: Path) -> None:
    key = post(server, "song_folders/scan", {"folder": folder.name})[1]["preview"]
    wish = {"action": "replace", "find": "drums", "text": "toms"}
    assert post(server, f"songs/{key}/bulk", wish) == (
        200, {"songs": 2, "examples": ["neon drive.wav", "slow rain.flac"]})
    (folder / "slow rain.caption.txt").write_text("slow drums, written by hand\n", encoding="utf-8")
    status, written = post(server, f"songs/{key}/bulk", wish | {"preview": False})
    assert (status, written["songs"]) == (200, 1)
    assert written["problems"] == ["slow rain.flac: Its texts were changed elsewhere. Look at the folder again."]
    captions = {song.name: song.caption for song in find_songs(folder).songs}
    assert captions["slow rain.flac"] == "slow drums, written by hand"
    assert captions["neon drive.wav"].endswith("four on the floor toms")


def test_trigger_word_is_written_for_filtered_songs(server: ComfyUI, folder: Path) -> None:
    key = post(server, "song_folders/scan", {"folder": folder.name})[1]["preview"]
    status, written = post(server, f"songs/{key}/bulk", {"action": "trigger_word", "text": "mystyle", "preview": False,
                                                         "filter": "waltz"})
    assert (status, written) == (200, {"songs": 1, "problems": []})
    assert {song.name: song.trigger_word for song in find_songs(folder).songs} == {
        "neon drive.wav": "", "paper waltz.ogg": "mystyle", "slow rain.flac": ""}


def test_proposal_fits_songs(server: ComfyUI, folder: Path) -> None:
    (folder / "neon drive.txt").unlink()
    assert MODEL in server.get_json("/sidestep/first_training")["models"]
    wish = {"folder": folder.name, "model": MODEL, "name": "My: tapes"}
    status, found = post(server, "first_training", wish)
    assert status == 200
    assert (found["name"], found["trigger_word"], found["songs"], found["without_caption"]) == (
        "My_ tapes", "my_tapes", 3, 1)
    assert (found["preset"], found["steps"]) == ("quick_test", found["widgets"]["SideStepTrainAdapter"]["max_steps"])
    assert found["widgets"]["UNETLoader"]["unet_name"] == MODEL
    for wrong, reason in (({"model": "other.safetensors"}, "is not in ComfyUI's model folders"),
                          ({"name": "con"}, "Windows"), ({"preset": "../x"}, "no built-in preset"),
                          ({"folder": "../models"}, "no folder")):
        status, refused = post(server, "first_training", wish | wrong)
        assert status == 422
        assert reason in refused
