"""Files of torch.save are read; foreign pickles run no code."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from sidestep_core.io.torch_pickle import BadTorchFile, read


class Hostile:
    """Write a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> object:
        return (Path.write_text, (self.target, "owned"))


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_and_values_round_trip(tmp_path: Path, zipped: bool) -> None:
    content = {"a": torch.arange(6.0).view(2, 3), "b": {"c": "text", "d": [1, 2.5, None, True]}}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = read(tmp_path / "a.pt")
    assert isinstance(found, dict)
    assert torch.equal(found["a"], content["a"])
    assert found["b"] == content["b"]


@pytest.mark.parametrize("way", ["zipped", "legacy", "bare"])
def test_no_code_is_run(tmp_path: Path, way: str) -> None:
    path, target = tmp_path / "hostile.pt", tmp_path / "target"
    if way == "bare":
        path.write_bytes(pickle.dumps({"a": Hostile(target)}))
    else:
        torch.save({"a": torch.zeros(2), "b": Hostile(target)}, path, _use_new_zipfile_serialization=way == "zipped")
    with pytest.raises(BadTorchFile, match=r"holds more than tensors, which would run code.*\(UnpicklingError\)"):
        read(path)
    assert not target.exists()


def test_compressed_file_is_refused(tmp_path: Path) -> None:
    """A megabyte that would unpack to a gigabyte; torch never compresses."""
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pt")
    packed = zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "a.pt") as plain, packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    with pytest.raises(BadTorchFile, match="is damaged"):
        read(tmp_path / "b.pt")


@pytest.mark.parametrize("kept", [0, 1, 100, -10])
def test_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:kept])
    with pytest.raises(BadTorchFile, match="was cut off"):
        read(tmp_path / "a.pt")


def test_missing_file_raises(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "a.pt")
