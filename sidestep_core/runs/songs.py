"""Songs that a run was trained on, as its folder lists them for people."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from ..io import strict_json
from ..io.record import Record, parse
from . import files

log = logging.getLogger(__name__)

MAX_BYTES = 16_000_000
MAX_SONGS = 5000
MAX_CAPTION = 300


@dataclass(frozen=True, kw_only=True)
class Song(Record):
    """One song, or section of a song."""

    name: str
    seconds: float
    caption: str = ""
    problems: tuple[str, ...] = ()
    """Whole sentences."""


def read(folder: Path) -> tuple[Song, ...]:
    """Read the songs of the run in the folder; none if they were not kept, or are damaged."""
    path = folder / files.SONGS
    if not path.is_file():
        return ()
    try:
        found: tuple[Song, ...] = parse(strict_json.read(path, max_bytes=MAX_BYTES), tuple[Song, ...], files.SONGS)
        return found
    except strict_json.BadJson as error:
        log.warning("The songs of %s are left out: %s", folder.name, error)
        return ()
