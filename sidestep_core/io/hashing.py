"""Content hashes: of files, of JSON values, and of every file in a folder, stored with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from ..errors import AdapterError
from . import atomic, strict_json
from .record import parse
from .strict_json import Json

CHECKSUMS = "checksums.json"


def hash_file(path: Path, tick: Callable[[], None] = lambda: None) -> str:
    """Return the SHA-256 of a file as 64 hex digits; `tick` is called after every 4 MiB."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 22):
            digest.update(block)
            tick()
    return digest.hexdigest()


def fingerprint(*parts: Json) -> str:
    """Return 16 hex digits that change with any of the JSON values."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every other file in the folder to its `checksums.json`."""
    atomic.write_json(folder / CHECKSUMS, {file.name: hash_file(file) for file in sorted(folder.iterdir())
                                           if file.name != CHECKSUMS})


def verify_checksums(folder: Path) -> None:
    """Compare every file with its checksum.  AdapterError names the first that is missing or damaged."""
    checksums = parse(strict_json.read(folder / CHECKSUMS), dict[str, str], CHECKSUMS)
    for name, expected in checksums.items():
        file = folder / Path(name).name
        if not file.is_file():
            raise AdapterError(f"{name} is missing")
        if hash_file(file) != expected:
            raise AdapterError(f"{name} is not what was written")
