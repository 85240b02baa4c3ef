"""Files are whole or absent, whatever happens while they are written."""

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

from sidestep_core.io import atomic
from sidestep_core.io import tensors as tensor_header
from sidestep_core.io.atomic import (
    BadTensorFile,
    TensorFile,
    atomic_folder,
    copy,
    fingerprint,
    hash_file,
    read_json,
    read_metadata,
    read_tensors,
    write_bytes,
    write_json,
    write_tensors,
)

OLD, NEW = {"x": torch.arange(6.0).reshape(2, 3)}, {"x": torch.ones(70_000), "y": torch.zeros(3)}


class PowerCut(BaseException):
    """Not an Exception: nothing may catch it."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_tensors_and_metadata_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(12).reshape(3, 4).T.to(dtype)
    write_tensors(tmp_path / "deep" / "a.safetensors", {"x": tensor}, {"key": "Größe"})
    found = read_tensors(tmp_path / "deep" / "a.safetensors")["x"]
    assert found.dtype == dtype
    assert torch.equal(found, tensor)
    assert read_metadata(tmp_path / "deep" / "a.safetensors")["key"] == "Größe"
    assert torch.equal(TensorFile(tmp_path / "deep" / "a.safetensors").tensor("x"), tensor)


def test_json_comes_back_and_people_can_read_it(tmp_path: Path) -> None:
    value = {"name": "Größe 大", "steps": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "Größe 大" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_bytes_come_back(tmp_path: Path) -> None:
    write_bytes(tmp_path / "deep" / "a.flac", b"\r\n\0\xff")
    assert (tmp_path / "deep" / "a.flac").read_bytes() == b"\r\n\0\xff"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.flac"]


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_lacks_are_refused(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": [value]})
    assert read_json(tmp_path / "a.json") == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_failure_before_the_rename_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                              operation: str) -> None:
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
    assert read_json(tmp_path / "a.json") == {"old": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


def test_the_content_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        """No file may grow beyond 10 kB, which fails as a full disk does: in the middle of a write."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def test_a_full_disk_leaves_the_old_files(tmp_path: Path) -> None:
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
        assert read_json(tmp_path / "a.json") == {"old": 1}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors", "big"]


def test_tensor_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    """A LoRA on a shared drive is read by other people's ComfyUI."""
    (tmp_path / "usual").touch()
    write_tensors(tmp_path / "a.safetensors", OLD)
    write_json(tmp_path / "a.json", 1)
    copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert set(modes.values()) == {modes["usual"]}


@pytest.mark.parametrize("read", [read_tensors, read_metadata, TensorFile])
@pytest.mark.parametrize("content", [b"", b"x", b"a text file\n" * 20, bytes(100), b"\xff" * 100, b"PK\x03\x04" * 20])
def test_other_files_are_refused_by_name(tmp_path: Path, read: object, content: bytes) -> None:
    (tmp_path / "wrong.safetensors").write_bytes(content)
    assert callable(read)
    with pytest.raises(BadTensorFile, match=r"wrong\.safetensors"):
        read(tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("read", [read_tensors, read_metadata, TensorFile])
@pytest.mark.parametrize("missing", [1, 24, 200])
def test_a_file_that_was_cut_off_is_refused_by_name(tmp_path: Path, read: object, missing: int) -> None:
    path = tmp_path / "cut.safetensors"
    write_tensors(path, {"x": torch.ones(10), "y": torch.zeros(40)})
    path.write_bytes(path.read_bytes()[:-missing])
    assert callable(read)
    with pytest.raises(BadTensorFile, match=r"cut\.safetensors"):
        read(path)


def test_a_header_that_would_fill_the_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.safetensors"
    write_tensors(path, {"x": torch.ones(10)})
    assert TensorFile(path).stored
    monkeypatch.setattr(tensor_header, "LARGEST", 50)
    with pytest.raises(BadTensorFile, match=r"huge\.safetensors is not a safetensors file"):
        TensorFile(path)


def test_a_header_is_read_without_the_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.arange(8, dtype=torch.uint8), "y": torch.ones(3, 2).bfloat16()}, {"key": "value"})
    file = TensorFile(path)
    assert (file.stored["x"].dtype, file.stored["x"].shape) == ("U8", (8,))
    assert (file.stored["y"].dtype, file.stored["y"].shape) == ("BF16", (3, 2))
    assert file.metadata == {"key": "value"}
    assert file.sample("x", 4) == bytes([2, 3, 4, 5])
    assert file.sample("x", 100) == bytes(range(8))


def test_tensors_can_be_trained_on_inside_inference_mode(tmp_path: Path) -> None:
    """ComfyUI runs nodes in it, and autograd refuses its tensors."""
    write_tensors(tmp_path / "a.safetensors", OLD)
    with torch.inference_mode():
        tensor = TensorFile(tmp_path / "a.safetensors").tensor("x")
    assert not tensor.is_inference()


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "new") as temporary:
        (temporary / "a.txt").write_text("a", encoding="utf-8")
        assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_folder_that_fails_vanishes(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with atomic_folder(tmp_path / "new") as temporary:
            (temporary / "a.txt").write_text("a", encoding="utf-8")
            raise PowerCut

    with pytest.raises(PowerCut):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_a_copy_is_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(5000))
    copy(tmp_path / "a", tmp_path / "deep" / "b")
    assert (tmp_path / "deep" / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert hash_file(tmp_path / "a") == hash_file(tmp_path / "deep" / "b")


def test_fingerprints_mean_the_same_for_ever() -> None:
    """Datasets and runs on people's disks are found by them."""
    assert fingerprint("a", 1, [2.5, None], {"b": True}) == "423960f9b84848b0"


def test_fingerprints_change_with_every_part() -> None:
    values = [(), ("",), ("a",), ("a", "b"), ("ab",), (["a", "b"],), (1,), (1.0,), ("1",), (None,), ({"a": 1},)]
    assert len({fingerprint(*parts) for parts in values}) == len(values)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


def test_a_fingerprint_of_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        fingerprint(float("nan"))


def test_json_on_the_disk_is_standard(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1]})
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"b": [1]}
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")
