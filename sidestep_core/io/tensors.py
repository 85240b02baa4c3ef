"""Safetensors files: written atomically, headers read within bounds.

The only module that imports safetensors.  `TensorFile` reads a file tensor by tensor; a damaged file is a
BadTensorFile.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import SideStepError
from . import atomic, strict_json, temp_files
from .record import parse
from .strict_json import BadJson

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 16_000_000
"""Bytes; a hundred times the largest header known."""
MAX_DIMENSIONS = 16
METADATA = "__metadata__"
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4,
}  # fmt: skip


class BadTensorFile(SideStepError):
    """The file is not safetensors, or was cut off."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file: dtype as safetensors spells it ("BF16", "F8_E4M3"), shape, offset in the file, bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class _HeaderEntry:
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically, with the default file mode."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        # safetensors >= 0.8 creates files with mode 600; a LoRA on a shared drive must stay readable.
        temporary.touch()
        usual_mode = temporary.stat().st_mode
        # safetensors writes a temporary file of its own first, under a name that does not identify the process.
        with temp_files.temp_folder(temporary) as folder:
            try:
                save_file(contiguous, folder / "x", metadata=dict(metadata or {}))
                _sort_metadata(folder / "x")
            except SafetensorError as error:
                # The only way in which safetensors reports a full disk.
                raise OSError(str(error)) from error
            atomic.rename(folder / "x", temporary)
        if temporary.stat().st_mode != usual_mode:
            temporary.chmod(usual_mode)

    atomic.write_atomically(path, write)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file to the CPU.  BadTensorFile when it is not one, or was cut off."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise BadTensorFile(f"{path}: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Read the string metadata of a safetensors file.  BadTensorFile when it is not one, or was cut off."""
    return TensorFile(path).metadata


def json_metadata(metadata: Mapping[str, str], key: str, where: str) -> dict[str, Any]:
    """Parse the JSON object in one entry of the metadata; empty if the entry is missing.  BadJson otherwise."""
    return strict_json.as_object(strict_json.loads(metadata.get(key, "{}"), where), where)


class TensorFile:
    """A safetensors file, read tensor by tensor.

    Opening reads the header only.  BadTensorFile when the file is not safetensors, or shorter than its header states.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stored, self.metadata = _read_header(path)

    def tensor(self, name: str) -> Tensor:
        """Return the tensor as stored, on the CPU, memory-mapped: copy before writing into it.

        Created outside inference mode, so that autograd may save it.
        """
        import torch

        with torch.inference_mode(False):
            tensor: Tensor = self._mapped.get_tensor(name)
        return tensor

    def chunks(self, name: str, size: int) -> Iterator[bytes]:
        """Yield the tensor's bytes, `size` at a time."""
        stored = self.stored[name]
        with self.path.open("rb") as file:
            file.seek(stored.start)
            for first in range(0, stored.size, size):
                yield file.read(min(size, stored.size - first))

    def middle(self, name: str, count: int) -> bytes:
        """Read up to `count` of the tensor's bytes, from its middle."""
        stored = self.stored[name]
        with self.path.open("rb") as file:
            file.seek(stored.start + max(0, stored.size - count) // 2)
            return file.read(min(count, stored.size))

    @cached_property
    def _mapped(self) -> Any:
        from safetensors import safe_open

        return safe_open(self.path, framework="pt")


def _read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Read tensors by name, and metadata.  BadTensorFile when the file is none, was cut off, or contradicts itself."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            if not 8 < start <= min(size, MAX_HEADER_BYTES):
                raise BadJson("is not a safetensors file, or was cut off.")
            content = file.read(start - 8)
        header = strict_json.loads(content, "is not a safetensors file: its header")
        entries = strict_json.as_object(header, "is not a safetensors file: its header")
        metadata = parse(entries.pop(METADATA, None), dict[str, str] | None, "has wrong metadata: it")
        stored = {name: _stored(name, entry, start) for name, entry in entries.items()}
        expected = max((tensor.start + tensor.size for tensor in stored.values()), default=start)
        if expected > size:
            raise BadJson(f"was cut off: it has {size} of {expected} bytes.")
    except BadJson as error:
        raise BadTensorFile(f"{path.name} {error}") from error
    return stored, metadata or {}


def _stored(name: str, value: Any, start: int) -> StoredTensor:
    where = f"has a wrong entry {strict_json.shown(name)}: it"
    entry = parse(value, _HeaderEntry, where)
    first, end = entry.data_offsets
    bits = _BITS.get(entry.dtype)
    fits = 0 <= first <= end and len(entry.shape) <= MAX_DIMENSIONS and all(size >= 0 for size in entry.shape)
    # The size of an unknown dtype cannot be checked; a reader that needs the tensor refuses it.
    if not fits or (bits is not None and math.prod(entry.shape) * bits != (end - first) * 8):
        raise BadJson(f"{where} has shape {strict_json.shown(str(entry.shape))} and bytes {first} to {end}.")
    return StoredTensor(entry.dtype, entry.shape, start + first, end - first)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata entries, which safetensors writes in random order, so that equal content is equal bytes."""
    with path.open("rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = strict_json.loads(file.read(size), path.name)
        if len(header.get(METADATA, {})) > 1:
            header[METADATA] = dict(sorted(header[METADATA].items()))
            file.seek(8)
            # Spelled as safetensors does, so that its length stays the same.
            file.write(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size))
