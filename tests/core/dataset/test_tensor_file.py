"""Files of encoded values: the same bytes every time, and no damage goes unnoticed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep_core.dataset import tensor_file
from sidestep_core.errors import DatasetError
from sidestep_core.io.tensors import read_tensors, write_tensors

VALUES = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tensor_file.write(tmp_path / "a.safetensors", "latents", VALUES, "somebody")
    return tmp_path / "a.safetensors"


def test_round_trip(file: Path) -> None:
    assert torch.equal(tensor_file.read(file, "latents", "song"), VALUES)
    assert tensor_file.owner_of(file) == "somebody"


def test_any_tensor_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for values in (VALUES.T, VALUES[::2], VALUES.bfloat16(), VALUES.double(), VALUES[:0], VALUES.requires_grad_()):
        tensor_file.write(path, "codes", values)
        assert torch.equal(tensor_file.read(path, "codes", "song"), values.float())
        assert tensor_file.owner_of(path) == ""
    VALUES.requires_grad_(False)


def test_file_bytes_are_deterministic(file: Path, tmp_path: Path) -> None:
    for number in range(20):
        tensor_file.write(tmp_path / f"{number}", "latents", VALUES, "somebody")
        assert (tmp_path / f"{number}").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("place", [-1, -4 * 64, -5 * 4 * 64])
def test_flipped_bit_is_detected(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert torch.isfinite(read_tensors(file)["latents"]).all()
    with pytest.raises(DatasetError, match=r"damaged \(its values are not those that were written\)\. Delete it"):
        tensor_file.read(file, "latents", "song")


@pytest.mark.parametrize(("damage", "message"), [
    (lambda file: file.unlink(), "is missing from the dataset"),
    (lambda file: file.write_bytes(file.read_bytes()[:-1]), "is damaged"),
    (lambda file: file.write_bytes(b""), "is damaged"),
    (lambda file: tensor_file.write(file, "codes", VALUES), "is damaged"),
    (lambda file: tensor_file.write(file, "latents", VALUES / 0), "latents of 'song' has values that are not finite"),
])  # fmt: skip
def test_damaged_file_is_named(file: Path, damage: object, message: str) -> None:
    damage(file)  # type: ignore[operator]
    with pytest.raises(DatasetError, match=message) as caught:
        tensor_file.read(file, "latents", "song")
    assert str(file) in str(caught.value)
    assert "Preprocess the songs again" in str(caught.value)


def test_files_without_checksum_are_read(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"latents": VALUES})
    assert torch.equal(tensor_file.read(tmp_path / "a.safetensors", "latents", "song"), VALUES)
    assert tensor_file.owner_of(tmp_path / "a.safetensors") == ""


def test_rows_are_read_in_slices(file: Path) -> None:
    rows = tensor_file.open_rows(file, "latents", "song")
    assert rows.shape == VALUES.shape
    for part in (slice(None), slice(1, 3), slice(4, None), slice(0, 99), slice(3, 1)):
        assert torch.equal(rows[part], VALUES[part])
    middle = rows.part(1, 3)
    assert middle.shape == (3, 64)
    assert torch.equal(middle[:], VALUES[1:4])
    assert torch.equal(middle[1:9], VALUES[2:4])
    assert torch.equal(tensor_file.open_rows(file, "latents", "song", first=2, count=2)[:], VALUES[2:4])


def test_rows_leave_no_file_open(file: Path) -> None:
    rows = tensor_file.open_rows(file, "latents", "song")
    first = rows[:1]
    file.unlink()
    assert torch.equal(first, VALUES[:1])
    with pytest.raises(DatasetError, match="is missing from the dataset"):
        rows[:1]


def test_rows_verify_a_changed_file(file: Path) -> None:
    rows = tensor_file.open_rows(file, "latents", "song")
    part = rows.part(0, 2)
    assert torch.equal(part[:], VALUES[:2])
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(1, 1))
    with pytest.raises(DatasetError, match="damaged"):
        part[:]
    tensor_file.write(file, "latents", VALUES)
    assert torch.equal(rows[:], VALUES)
    tensor_file.write(file, "latents", VALUES[:4])
    with pytest.raises(DatasetError, match="was replaced while it was trained on"):
        rows[:]


@pytest.mark.parametrize(("values", "kind", "count"), [
    (VALUES, "codes", None), (VALUES, "latents", 6), (VALUES[0], "latents", None), (VALUES[:0], "latents", None),
])  # fmt: skip
def test_other_matrices_are_rejected(tmp_path: Path, values: torch.Tensor, kind: Any, count: int | None) -> None:
    tensor_file.write(tmp_path / "a.safetensors", "latents", values)
    with pytest.raises(DatasetError, match=r"a\.safetensors is damaged"):
        tensor_file.open_rows(tmp_path / "a.safetensors", kind, "song", count=count)[:]


def test_opening_reads_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda *_: pytest.fail("was opened"))
        rows = tensor_file.open_rows(file, "latents", "song", count=5)
    assert (len(rows), rows.nbytes) == (5, file.stat().st_size)
    file.write_bytes(b"")
    with pytest.raises(DatasetError, match="it is empty"):
        tensor_file.open_rows(file, "latents", "song")
    file.unlink()
    with pytest.raises(DatasetError, match="is missing"):
        tensor_file.open_rows(file, "latents", "song")
