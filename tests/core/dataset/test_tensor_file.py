"""Files of encoded values: the same bytes every time, and no damage goes unnoticed."""

from __future__ import annotations

from pathlib import Path

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
