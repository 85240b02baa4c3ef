"""The header of a safetensors file that we have just written: the same content must be the same bytes."""

from __future__ import annotations

import json
from pathlib import Path


def sort_metadata(path: Path) -> None:
    """Put the entries of its metadata in order; safetensors writes them in any."""
    with path.open("rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        if len(header.get("__metadata__", {})) > 1:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
            file.seek(8)
            # As safetensors spells it, so that it is as long as before.
            file.write(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size))
