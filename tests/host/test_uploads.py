"""Uploads get safe names in a free folder of ComfyUI's input folder, and everything else is named with its reason."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.host.pack import pack_module


@pytest.fixture
def uploads(comfy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    found = pack_module("nodes.library.uploads")
    monkeypatch.setattr(found.folder_paths, "get_input_directory", lambda: str(tmp_path))
    return found


def offered(uploads: Any, *paths: str, size: int = 9) -> list[Any]:
    return [uploads.Offered(path=path, size=size) for path in paths]


def targets(uploads: Any, name: str, *paths: str) -> dict[str, str]:
    """Where each file goes, below the input folder."""
    plan = uploads.plan(name, offered(uploads, *paths))
    return {file.path: f"{file.folder}/{file.name}" if file.name else "" for file in plan.files}


def test_same_named_folder_is_kept(uploads: Any, tmp_path: Path) -> None:
    for name in ("Night", "Night-2"):
        (tmp_path / name).mkdir()
    assert uploads.plan("Night", offered(uploads, "a.wav")).folder == "Night-3"


def test_texts_stay_with_their_song(uploads: Any) -> None:
    assert targets(uploads, "a:b", "x?.wav", "x?.caption.txt", "x*.wav", "x*.txt", "live/y.mp3", "live/y_lyrics.txt",
                   "dataset.json") == {
        "x?.wav": "a_b/x_.wav", "x?.caption.txt": "a_b/x_.caption.txt", "x*.wav": "a_b/x_-2.wav",
        "x*.txt": "a_b/x_-2.txt", "live/y.mp3": "a_b/live/y.mp3", "live/y_lyrics.txt": "a_b/live/y_lyrics.txt",
        "dataset.json": "a_b/dataset.json"}


@pytest.mark.parametrize("path", ["../a.wav", "/etc/a.wav", "b/../../a.wav", "..\\..\\a.wav", "C:\\a.wav", "nul/a.wav"])
def test_nothing_leaves_input(uploads: Any, tmp_path: Path, path: str) -> None:
    for target in targets(uploads, "..x", path, "fine.wav").values():
        assert (tmp_path / target).resolve().is_relative_to(tmp_path)
        assert ".." not in Path(target).parts
        assert "\\" not in target


@pytest.mark.parametrize(("path", "size", "reason"), [
    ("a.exe", 9, "neither audio nor a text"), ("a", 9, "without an ending"), ("a.mp3", 0, r"empty \(0 bytes\)"),
    ("a.wav", 200 * 2**20, "at most 100 MB.*--max-upload-size"), ("a" * 200 + ".wav", 9, "200|204"),
    ("con.wav", 9, "Windows")])
def test_unusable_file_has_reason(uploads: Any, path: str, size: int, reason: str) -> None:
    plan = uploads.plan("x", [*offered(uploads, "fine \U0001f3b5.flac"), uploads.Offered(path=path, size=size)])
    [left] = [file for file in plan.files if not file.name]
    assert left.path == path
    assert re.search(reason, left.reason)
    assert [file.name for file in plan.files if file.name] == ["fine \U0001f3b5.flac"]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_upload_goes_on_in_its_folder(uploads: Any, tmp_path: Path) -> None:
    files = {"a.wav": b"song", "b/c.wav": b"other song", "a.lrc": b"[00:01.00] la", "x?.wav": b"third"}
    for name, content in {"a.wav": b"song", "b/c.wav": b"OTHER song", "a.lrc": b"[00:01.00]", "x_.wav": b"third",
                          "b/more.wav": b"more"}.items():
        (tmp_path / "Night" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "Night" / name).write_bytes(content)
    found = uploads.resume("Night", [uploads.Offered(path=path, size=len(content), sha256=sha256(content))
                                     for path, content in files.items()])
    assert found.folder == "Night"
    assert {file.path: f"{file.folder}/{file.name}" for file in found.files} == {
        "a.wav": "Night/a.wav", "b/c.wav": "Night/b/c.wav", "a.lrc": "Night/a.lrc", "x?.wav": "Night/x_.wav"}
    assert sorted(found.there) == ["a.wav", "x?.wav"]
    assert found.others == ("Night/b/more.wav",)
    assert uploads.resume("Night", offered(uploads, "a.wav", size=4)).there == ()
    new = uploads.resume("Day", offered(uploads, "a.wav"))
    assert (new.there, new.others) == ((), ())
    assert not (tmp_path / "Day").exists()


def test_resumed_upload_stays_inside(uploads: Any, tmp_path: Path) -> None:
    (tmp_path / "outside.wav").write_bytes(b"song")
    with pytest.raises(Exception, match="name of the folder is empty"):
        uploads.resume("..", offered(uploads, "fine.wav"))
    stranger = uploads.Offered(path="../outside.wav", size=4, sha256=sha256(b"song"))
    found = uploads.resume("Night", [stranger, *offered(uploads, "fine.wav")])
    assert found.there == ()
    assert [file.name for file in found.files] == ["", "fine.wav"]


def test_no_song_is_an_error(uploads: Any) -> None:
    with pytest.raises(Exception, match="no song to upload .no file was chosen"):
        uploads.plan("x", [])
    with pytest.raises(Exception, match="a.exe"):
        uploads.plan("x", offered(uploads, "a.exe"))

