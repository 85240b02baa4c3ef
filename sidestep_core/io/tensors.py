"""The header of a safetensors file: read within bounds, and put in order where we have just written it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import strict_json
from .strict_json import BadJson

LARGEST = 16_000_000
"""Bytes; the largest that is known has a hundredth of it."""
MOST_DIMENSIONS = 16
METADATA = "__metadata__"
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4,
}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """One line of a safetensors header: dtype as the format spells it ("BF16", "F8_E4M3"), shape, first byte in the
    file, size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class _Line:
    """As the header has it."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata.  BadJson, without the file's name, where it is none,
    is cut off, or contradicts itself."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        if not 8 < start <= min(size, LARGEST):
            raise BadJson("is not a safetensors file, or was cut off.")
        text = file.read(start - 8)
    header = strict_json.loads(text, "is not a safetensors file: its header")
    lines = strict_json.as_object(header, "is not a safetensors file: its header")
    metadata = strict_json.typed(lines.pop(METADATA, None), dict[str, str] | None, "has wrong metadata: it")
    stored = {name: _stored(name, line, start) for name, line in lines.items()}
    expected = max((tensor.start + tensor.size for tensor in stored.values()), default=start)
    if expected > size:
        raise BadJson(f"was cut off: it has {size} of {expected} bytes.")
    return stored, metadata or {}


def facts(metadata: Mapping[str, str], key: str, where: str) -> dict[str, Any]:
    """The JSON object that an entry of the metadata holds; empty where there is no such entry.  BadJson for others."""
    return strict_json.as_object(strict_json.loads(metadata.get(key, "{}"), where), where)


def sort_metadata(path: Path) -> None:
    """Put the entries of its metadata in order; safetensors writes them in any."""
    with path.open("rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = strict_json.loads(file.read(size), path.name)
        if len(header.get(METADATA, {})) > 1:
            header[METADATA] = dict(sorted(header[METADATA].items()))
            file.seek(8)
            # As safetensors spells it, so that it is as long as before.
            file.write(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size))


def _stored(name: str, value: Any, start: int) -> StoredTensor:
    where = f"has a wrong entry {strict_json.shown(name)}: it"
    line = strict_json.record(_Line, value, where)
    begin, end = line.data_offsets
    bits = _BITS.get(line.dtype)
    fits = 0 <= begin <= end and len(line.shape) <= MOST_DIMENSIONS and all(size >= 0 for size in line.shape)
    # The size of a dtype that is not known cannot be checked; whoever needs the tensor refuses it.
    if not fits or (bits is not None and math.prod(line.shape) * bits != (end - begin) * 8):
        raise BadJson(f"{where} says shape {strict_json.shown(str(line.shape))} and bytes {begin} to {end}.")
    return StoredTensor(line.dtype, line.shape, start + begin, end - begin)
