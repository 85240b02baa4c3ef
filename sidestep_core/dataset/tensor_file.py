"""One encoded tensor in a file with its checksum, so that damage is found and never trained on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..errors import DatasetError
from ..io.tensors import BadTensorFile, read_metadata, read_tensors, write_tensors

Kind = Literal["latents", "condition", "genre", "codes", "silence"]
"""Kind of a tensor, and its name in the file.  An imported condition has its genre in the same file."""
_METADATA_KEY = "content"
"""Metadata entry of checksum and owner: safetensors writes several entries in any order, and files must be equal to the
byte."""


def write(path: Path, kind: Kind, values: Tensor, owner: str = "") -> None:
    """Write the values in float32.  `owner` identifies their prompt if the file's name does not (see `owner_of`)."""
    values = values.detach().float().cpu().contiguous()
    write_tensors(path, {kind: values}, {_METADATA_KEY: f"{_checksum(values)} {owner}"})


def read(path: Path, kind: Kind, song: str) -> Tensor:
    """Read the values, float32 on the CPU.  DatasetError names the file if it is missing, damaged, or not finite."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing from the dataset. Preprocess the songs again: only what is missing "
                           "is encoded.")
    try:
        # A copy: a memory-mapped file cannot be replaced on Windows.
        values = read_tensors(path)[kind].clone()
        checksum, _ = _checksum_and_owner(path)
    except (BadTensorFile, KeyError) as error:
        raise DatasetError(f"{path} is damaged ({error}). Delete it. Preprocess the songs again.") from error
    if checksum and checksum != _checksum(values):
        raise DatasetError(f"{path} is damaged (its values are not those that were written). Delete it. "
                           "Preprocess the songs again.")
    if not torch.isfinite(values).all():
        raise DatasetError(f"{kind} of {song!r} has values that are not finite. Delete {path}. "
                           "Preprocess the songs again.")
    return values


def owner_of(path: Path) -> str:
    """Owner given to `write`; empty if none was.  BadTensorFile if the file is no tensor file."""
    return _checksum_and_owner(path)[1]


def _checksum_and_owner(path: Path) -> tuple[str, str]:
    """Checksum and owner; files of earlier versions have neither."""
    checksum, _, owner = read_metadata(path).get(_METADATA_KEY, "").partition(" ")
    return checksum, owner


def _checksum(values: Tensor) -> str:
    return hashlib.sha256(values.flatten().view(torch.uint8).numpy().data).hexdigest()
