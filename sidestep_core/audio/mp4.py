"""Tempo in the tags of an MP4 file, which FFmpeg does not read."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_PATH = (b"moov", b"udta", b"meta", b"ilst", b"tmpo", b"data")
_HEADER = {b"meta": 4, b"data": 8}
"""Bytes of these atoms before their content: a version; a type and a language."""
_LONGEST = 8
"""Bytes of an integer."""
_MAX_ATOMS = 100_000
"""Most atoms side by side; a recording of a whole day has fewer."""


def tempo(path: Path) -> int | None:
    """Read beats per minute as iTunes and DJ programs write them; None if not stated.

    Reads a few atom headers only (ISO/IEC 14496-12, and the iTunes list of tags).
    """
    with path.open("rb") as file:
        end = file.seek(0, 2)
        start = 0
        for name in _PATH:
            found = _atom(file, name, start, end)
            if found is None:
                return None
            start, end = found[0] + _HEADER.get(name, 0), found[1]
        file.seek(start)
        return int.from_bytes(file.read(min(max(end - start, 0), _LONGEST)), "big") or None


def _atom(file: BinaryIO, name: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Start and end of the content of the first atom with this name between `start` and `end`."""
    for _ in range(_MAX_ATOMS):
        if start + 8 > end:
            break
        file.seek(start)
        size, found = int.from_bytes(file.read(4), "big"), file.read(4)
        header = 8
        if size == 1:
            size, header = int.from_bytes(file.read(8), "big"), 16
        stop = end if size == 0 else start + size
        if stop < start + header or stop > end:
            return None
        if found == name:
            return start + header, stop
        start = stop
    return None
