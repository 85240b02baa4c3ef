"""Files are whole or absent, even if a write fails."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from sidestep_core.io import atomic, strict_json
from sidestep_core.io.atomic import atomic_folder, copy, write_bytes, write_json
from sidestep_core.io.hashing import hash_file
from sidestep_core.io.tensors import read_tensors, write_tensors

OLD, NEW = {"x": torch.arange(6.0).reshape(2, 3)}, {"x": torch.ones(70_000), "y": torch.zeros(3)}


class PowerCut(BaseException):
    """A BaseException that nothing may catch."""


def test_json_round_trips_readably(tmp_path: Path) -> None:
    value = {"name": "Größe 大", "steps": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    assert strict_json.read(tmp_path / "a.json") == value
    assert "Größe 大" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_bytes_round_trip(tmp_path: Path) -> None:
    write_bytes(tmp_path / "deep" / "a.flac", b"\r\n\0\xff")
    assert (tmp_path / "deep" / "a.flac").read_bytes() == b"\r\n\0\xff"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.flac"]


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert strict_json.read(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_numbers_are_refused(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": [value]})
    assert strict_json.read(tmp_path / "a.json") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_failed_write_keeps_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    write_tensors(tmp_path / "a.safetensors", OLD)
    write_json(tmp_path / "a.json", {"old": 1})

    def fail(*arguments: object) -> None:
        raise PowerCut

    monkeypatch.setattr(atomic.os if operation == "fsync" else Path, operation, fail)
    with pytest.raises(PowerCut):
        write_tensors(tmp_path / "a.safetensors", NEW)
    with pytest.raises(PowerCut):
        write_json(tmp_path / "a.json", {"new": 2})
    with pytest.raises(PowerCut):
        copy(tmp_path / "a.json", tmp_path / "b.json")
    monkeypatch.undo()
    assert torch.equal(read_tensors(tmp_path / "a.safetensors")["x"], OLD["x"])
    assert strict_json.read(tmp_path / "a.json") == {"old": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


def test_content_is_flushed_before_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def logged_fsync(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def logged_replace(path: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(Path, "replace", logged_replace)
    write_tensors(tmp_path / "a.safetensors", OLD)
    assert calls[-3:] == ["file", "rename", "folder"]


if sys.platform != "win32":  # which has no such limit
    import resource

    @contextmanager
    def full_disk() -> Iterator[None]:
        """Limit files to 10 kB, which fails like a full disk: in the middle of a write."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def test_full_disk_keeps_old_files(tmp_path: Path) -> None:
        write_tensors(tmp_path / "a.safetensors", OLD)
        write_json(tmp_path / "a.json", {"old": 1})
        (tmp_path / "big").write_bytes(bytes(20_000))
        with full_disk():
            with pytest.raises(OSError, match="File too large"):
                write_tensors(tmp_path / "a.safetensors", NEW)
            with pytest.raises(OSError, match="File too large"):
                write_json(tmp_path / "a.json", ["x" * 20_000])
            with pytest.raises(OSError, match="File too large"):
                copy(tmp_path / "big", tmp_path / "copied")
        assert torch.equal(read_tensors(tmp_path / "a.safetensors")["x"], OLD["x"])
        assert strict_json.read(tmp_path / "a.json") == {"old": 1}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors", "big"]


def test_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "new") as temporary:
        (temporary / "a.txt").write_text("a", encoding="utf-8")
        assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_failed_folder_vanishes(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with atomic_folder(tmp_path / "new") as temporary:
            (temporary / "a.txt").write_text("a", encoding="utf-8")
            raise PowerCut

    with pytest.raises(PowerCut):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_copy_is_identical(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(5000))
    copy(tmp_path / "a", tmp_path / "deep" / "b")
    assert (tmp_path / "deep" / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert hash_file(tmp_path / "a") == hash_file(tmp_path / "deep" / "b")


def test_written_json_is_standard(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1]})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"b": [1]}
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")
