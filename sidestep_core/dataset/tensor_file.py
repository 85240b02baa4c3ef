"""One encoded tensor in a file with its checksum, so that damage is found and never trained on.

A training reads rows when it needs them: nothing is held in memory, and no file stays open or mapped, as Windows can
neither replace nor delete such files.  The system's cache makes repeated reads of one song as fast as memory.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..errors import DatasetError
from ..io.tensors import BadTensorFile, StoredTensor, TensorFile, read_metadata, read_tensors, write_tensors

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
    _require(path)
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


class Rows(Protocol):
    """Matrix that is read in slices of its rows: a tensor, or one in a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """Rows of an encoded matrix in a file, read when they are asked for; float32 on the CPU.

    The first read compares the whole file with its checksum, and so does the next one after the file has changed.
    """

    path: Path
    kind: Kind
    song: str
    nbytes: int
    """Size of the file."""
    first: int = 0
    """First row that counts."""
    count: int | None = None
    """Number of rows that count; None: all."""
    _verified: list[tuple[int, int]] = field(default_factory=list, compare=False)
    """Size and time of the file when its checksum was right."""

    def __len__(self) -> int:
        return self._stored.shape[0] - self.first if self.count is None else self.count

    @property
    def shape(self) -> tuple[int, int]:
        """Rows that count, and their width.  DatasetError if the file holds no such matrix."""
        return len(self), self._stored.shape[1]

    def part(self, first: int, count: int) -> StoredRows:
        """Return `count` of these rows, from number `first`, as rows of their own."""
        return replace(self, first=self.first + first, count=count)

    def __getitem__(self, rows: slice) -> Tensor:
        """Read the rows.  DatasetError names the file if it is missing, damaged, or not finite."""
        first, last, _ = rows.indices(len(self))
        first, last = self.first + first, self.first + max(first, last)
        stamp = _stamp(self.path)
        if stamp in self._verified:
            return self._read(first, last)
        values = read(self.path, self.kind, self.song)
        if values.shape != self._stored.shape:
            raise DatasetError(f"{self.path} was replaced while it was trained on. Train again.")
        self._verified[:] = [stamp]
        return values[first:last].clone()

    def _read(self, first: int, last: int) -> Tensor:
        values = torch.empty(last - first, self.shape[1])
        with self.path.open("rb") as file:
            file.seek(self._stored.start + first * values.shape[1] * values.itemsize)
            if file.readinto(values.numpy().data) != values.nbytes:
                raise DatasetError(f"{self.path} is damaged (it was cut off). Delete it. Preprocess the songs again.")
        return values

    @cached_property
    def _stored(self) -> StoredTensor:
        _require(self.path)
        try:
            stored = TensorFile(self.path).stored[self.kind]
        except (BadTensorFile, KeyError) as error:
            raise DatasetError(f"{self.path} is damaged ({error}). Delete it. Preprocess the songs again.") from error
        if stored.dtype != "F32" or len(stored.shape) != 2 or stored.shape[0] < self.first + (self.count or 1):
            raise DatasetError(f"{self.path} is damaged (it holds {list(stored.shape)} values of {stored.dtype}). "
                               "Delete it. Preprocess the songs again.")
        return stored


def open_rows(path: Path, kind: Kind, song: str, first: int = 0, count: int | None = None) -> StoredRows:
    """Open a matrix without reading it: `count` rows from number `first`, by default all.

    DatasetError names the file if it is missing or empty; all else is found by the first read.
    """
    size, _ = _stamp(path)
    if not size:
        raise DatasetError(f"{path} is damaged (it is empty). Delete it. Preprocess the songs again.")
    return StoredRows(path=path, kind=kind, song=song, nbytes=size, first=first, count=count)


def _require(path: Path) -> None:
    if not path.is_file():
        raise _missing(path)


def _missing(path: Path) -> DatasetError:
    return DatasetError(f"{path} is missing from the dataset. Preprocess the songs again: only what is missing is "
                        "encoded.")


def _stamp(path: Path) -> tuple[int, int]:
    try:
        facts = path.stat()
    except FileNotFoundError as error:
        raise _missing(path) from error
    return facts.st_size, facts.st_mtime_ns


def owner_of(path: Path) -> str:
    """Owner given to `write`; empty if none was.  BadTensorFile if the file is no tensor file."""
    return _checksum_and_owner(path)[1]


def _checksum_and_owner(path: Path) -> tuple[str, str]:
    """Checksum and owner; files of earlier versions have neither."""
    checksum, _, owner = read_metadata(path).get(_METADATA_KEY, "").partition(" ")
    return checksum, owner


def _checksum(values: Tensor) -> str:
    return hashlib.sha256(values.flatten().view(torch.uint8).numpy().data).hexdigest()
