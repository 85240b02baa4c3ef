"""Checksums of a folder's files, kept beside them: one flipped bit is found when the folder is used."""

from __future__ import annotations

from pathlib import Path

from ..errors import AdapterError
from . import atomic, strict_json

FILE = "checksums.json"


def write(folder: Path) -> None:
    """Write the SHA-256 of every file in the folder."""
    atomic.write_json(folder / FILE, {file.name: atomic.hash_file(file) for file in sorted(folder.iterdir())})


def verify(folder: Path) -> None:
    """Compare every file with its checksum.  AdapterError names the first that is missing or damaged."""
    listed = strict_json.typed(strict_json.read(folder / FILE), dict[str, str], FILE)
    for name, wanted in listed.items():
        file = folder / Path(name).name
        if not file.is_file():
            raise AdapterError(f"{name} is missing")
        if atomic.hash_file(file) != wanted:
            raise AdapterError(f"{name} is not what was written")
