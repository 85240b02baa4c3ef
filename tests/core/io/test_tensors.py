"""Safetensors files come back bit for bit; damaged ones are refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch

from sidestep_core.io import tensors
from sidestep_core.io.atomic import copy, write_json
from sidestep_core.io.tensors import BadTensorFile, TensorFile, read_metadata, read_tensors, write_tensors

OLD = {"x": torch.arange(6.0).reshape(2, 3)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_tensors_round_trip_bit_identically(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.arange(12).reshape(3, 4).T.to(dtype)
    write_tensors(tmp_path / "deep" / "a.safetensors", {"x": tensor}, {"key": "Größe"})
    found = read_tensors(tmp_path / "deep" / "a.safetensors")["x"]
    assert found.dtype == dtype
    assert torch.equal(found, tensor)
    assert read_metadata(tmp_path / "deep" / "a.safetensors")["key"] == "Größe"
    assert torch.equal(TensorFile(tmp_path / "deep" / "a.safetensors").tensor("x"), tensor)


def test_tensor_files_have_usual_mode(tmp_path: Path) -> None:
    """A LoRA on a shared drive must be readable by other users."""
    (tmp_path / "usual").touch()
    write_tensors(tmp_path / "a.safetensors", OLD)
    write_json(tmp_path / "a.json", 1)
    copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert set(modes.values()) == {modes["usual"]}


@pytest.mark.parametrize("read", [read_tensors, read_metadata, TensorFile])
@pytest.mark.parametrize("content", [b"", b"x", b"a text file\n" * 20, bytes(100), b"\xff" * 100, b"PK\x03\x04" * 20])
def test_foreign_file_is_refused(tmp_path: Path, read: object, content: bytes) -> None:
    (tmp_path / "wrong.safetensors").write_bytes(content)
    assert callable(read)
    with pytest.raises(BadTensorFile, match=r"wrong\.safetensors"):
        read(tmp_path / "wrong.safetensors")


@pytest.mark.parametrize("read", [read_tensors, read_metadata, TensorFile])
@pytest.mark.parametrize("missing", [1, 24, 200])
def test_truncated_file_is_refused(tmp_path: Path, read: object, missing: int) -> None:
    path = tmp_path / "cut.safetensors"
    write_tensors(path, {"x": torch.ones(10), "y": torch.zeros(40)})
    path.write_bytes(path.read_bytes()[:-missing])
    assert callable(read)
    with pytest.raises(BadTensorFile, match=r"cut\.safetensors"):
        read(path)


def test_huge_header_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.safetensors"
    write_tensors(path, {"x": torch.ones(10)})
    assert TensorFile(path).stored
    monkeypatch.setattr(tensors, "MAX_HEADER_BYTES", 50)
    with pytest.raises(BadTensorFile, match=r"huge\.safetensors is not a safetensors file"):
        TensorFile(path)


def test_header_describes_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.arange(8, dtype=torch.uint8), "y": torch.ones(3, 2).bfloat16()}, {"key": "value"})
    file = TensorFile(path)
    assert (file.stored["x"].dtype, file.stored["x"].shape) == ("U8", (8,))
    assert (file.stored["y"].dtype, file.stored["y"].shape) == ("BF16", (3, 2))
    assert file.metadata == {"key": "value"}
    assert file.middle("x", 4) == bytes([2, 3, 4, 5])
    assert file.middle("x", 100) == bytes(range(8))


def test_tensors_are_no_inference_tensors(tmp_path: Path) -> None:
    """ComfyUI runs nodes in it, and autograd refuses its tensors."""
    write_tensors(tmp_path / "a.safetensors", OLD)
    with torch.inference_mode():
        tensor = TensorFile(tmp_path / "a.safetensors").tensor("x")
    assert not tensor.is_inference()
