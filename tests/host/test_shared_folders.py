"""A real ComfyUI that other computers reach: what a workflow, or a list of songs, names outside of the shared folders
looks as if nothing were there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.server import ComfyUI, write_paths
from demo.songs import write_demo_songs
from tests.host.test_datasets import NAMES, building, told
from tests.running import demo_comfyui

SONG = NAMES[0]


@pytest.fixture(scope="module")
def computer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the administrator of ComfyUI lists, and a private one."""
    found = tmp_path_factory.mktemp("computer")
    for folder in ("listed", "private"):
        write_demo_songs(found / folder)
    return found


@pytest.fixture(scope="module")
def server(computer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """It listens to the network."""
    base = tmp_path_factory.mktemp("comfyui")
    paths = write_paths(base / "listed.yaml", {"music": {"sidestep_songs": str(computer / "listed")}})
    with demo_comfyui(base, "--listen", "0.0.0.0", "--extra-model-paths-config", paths) as running:  # noqa: S104
        yield running


def answer(server: ComfyUI, folder: str) -> str:
    """The error that Build Dataset gives for a folder, without its name."""
    outcome = server.run({"b": building(folder=folder)}, timeout=120)
    assert outcome.status == "error"
    return outcome.exception_message.replace(folder, "...").replace(Path(folder).name, "...")


def listed(server: ComfyUI, private: Path, *references: str) -> dict[str, Any]:
    """The table of a folder in ComfyUI's input whose dataset.json lists these songs."""
    folder = server.base / "input" / "strange"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "link").symlink_to(private)
    content = {"metadata": {"folder": str(private)},
               "samples": [{"audio_path": reference, "caption": "x"} for reference in references]}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    outcome = server.run({"b": building(folder="strange")}, timeout=120)
    assert outcome.status == "success", outcome.exception_message
    table: dict[str, Any] = server.get_json(f"/sidestep/songs/{told(outcome, 'b')['preview']}")
    return table


def test_shared_folders_are_read(server: ComfyUI, computer: Path) -> None:
    shutil.copytree(computer / "listed", server.base / "output" / "songs", dirs_exist_ok=True)
    for folder in ("demo_songs", str(server.base / "output" / "songs"), str(computer / "listed")):
        outcome = server.run({"b": building(folder=folder)}, timeout=120)
        assert told(outcome, "b")["songs"] == 3, folder


def test_private_and_missing_look_alike(server: ComfyUI, computer: Path) -> None:
    said = {answer(server, text) for text in (
        str(computer / "private"), str(computer / "private" / SONG), str(computer / "gone"),
        os.path.relpath(computer / "private", server.base / "input"))}
    assert len(said) == 1
    assert "sidestep_songs" in said.pop()


def test_lists_reach_shared_folders_only(server: ComfyUI, computer: Path) -> None:
    shared = [str(computer / "listed" / SONG), f"../demo_songs/{NAMES[1]}"]
    private = [str(computer / "private" / SONG),
               os.path.relpath(computer / "private" / SONG, server.base / "input" / "strange"), f"link/{SONG}",
               f"{computer}/listed/../private/{SONG}"]
    missing = [reference.replace(SONG, "gone.wav") for reference in private]
    table = listed(server, computer / "private", *shared, *private, *missing)
    assert [Path(row["name"]).name for row in table["rows"]] == NAMES[:2]
    reasons = [song["reason"] for song in table["left_out"] if song["name"] != "link"]
    assert len(reasons) == len(private) + len(missing)
    assert len({reason.replace(SONG, "gone.wav") for reason in reasons}) == len(missing)
