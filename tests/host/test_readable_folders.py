"""A workflow names any folder on its own computer; over the network only those that are shared."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.host.pack import pack_module


@pytest.fixture
def place(comfy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A computer with a folder that is listed, one of ComfyUI's input, and one of somebody else."""
    import folder_paths

    for name in ("input/songs", "output", "listed/songs", "private"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "input" / "link").symlink_to(tmp_path / "private")
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sidestep_songs", ([str(tmp_path / "listed")], set()))
    return tmp_path


def listen(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(pack_module("nodes.host.readable_folders").args, "listen", address)


def refusal(text: str) -> str:
    with pytest.raises(pack_module("sidestep_core.errors").DatasetError) as caught:
        pack_module("nodes.host.folders").given_folder(text)
    return str(caught.value).replace(text, "...")


def test_local_folders_are_readable(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listen(monkeypatch, "127.0.0.1")
    for name in ("private", "listed/songs", "input/songs"):
        assert pack_module("nodes.host.folders").given_folder(str(place / name)) == place / name


def test_shared_folders_are_read_remotely(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listen(monkeypatch, "0.0.0.0")  # noqa: S104 (nothing listens)
    for text in ("songs", str(place / "listed"), str(place / "listed" / "songs"), str(place / "output")):
        assert pack_module("nodes.host.folders").given_folder(text).is_dir()


def test_private_folders_look_missing_remotely(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listen(monkeypatch, "0.0.0.0")  # noqa: S104 (nothing listens)
    (place / "private" / "file").touch()
    said = {refusal(text) for text in (str(place / "private"), str(place / "private" / "file"), str(place / "gone"),
                                       "link", "../private", "../gone", "gone", "/", "/gone", "~")}
    assert len(said) == 1
    assert "sidestep_songs in extra_model_paths.yaml" in said.pop()


@pytest.mark.parametrize(("address", "cors", "alone"), [
    ("127.0.0.1", None, True), ("127.1.2.3", None, True), ("::1", None, True), ("[::1]", None, True),
    ("localhost", None, True), ("127.0.0.1,::1", None, True), ("127.0.0.1, 192.168.1.2", None, False),
    ("0.0.0.0", None, False), ("::", None, False), ("0.0.0.0,::", None, False), ("", None, False),
    ("studio.local", None, False), ("127.0.0.1", "*", False),
])
def test_only_loopback_is_local(comfy: ModuleType, address: str, cors: str | None, alone: bool) -> None:
    assert pack_module("nodes.host.readable_folders").only_this_computer(address, cors) is alone


@pytest.mark.parametrize("text", ["//server/songs", r"\\server\songs", r"\\?\C:\songs", r"\\.\pipe", r"\/server"])
def test_windows_network_paths_are_refused(comfy: ModuleType, text: str) -> None:
    places: Any = pack_module("nodes.host.readable_folders")
    with pytest.raises(pack_module("sidestep_core.errors").DatasetError, match="lies on another computer"):
        places.require_readable(Path(text), text, windows=True)


def test_remote_listed_songs_are_skipped(comfy: ModuleType) -> None:
    places: Any = pack_module("nodes.host.readable_folders")
    assert not places.may_read(Path("//server/songs/a.wav"), windows=True)
    assert places.may_read(Path("/songs/a.wav"), windows=True)
