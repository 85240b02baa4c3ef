"""Everything that is known about the songs of a folder, as a table for any spreadsheet."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from ..io import atomic
from .report import Estimated, SongReport
from .song import Song, SongFolder

COLUMNS = (
    "name", "start", "stop", "caption", "lyrics", "language", "bpm", "key", "signature", "genre", "trigger_word",
    "repeats", "heard_bpm", "heard_bpm_confidence", "heard_key", "heard_key_confidence", "heard_signature",
    "heard_signature_confidence", "seconds", "sample_rate", "channels", "peak_dbfs", "loudness_lufs", "clipped_share",
    "silent_share", "mono", "warnings", "problem",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Cell = str | int | float | None


def write_report(found: SongFolder, path: Path) -> None:
    """Write a CSV with a line for every song, and one for every file that is left out and why.

    UTF-8 with a byte-order mark, without which Excel takes it for another encoding.  Text that a spreadsheet would
    compute gets an apostrophe in front, as anyone may have written it into a song.
    """
    reports = {heard.name: heard for heard in found.reports}
    lines = [[*_of_song(song), *_of_report(reports.get(song.name)), None] for song in found.songs]
    lines += [[problem.name, *[None] * (len(COLUMNS) - 2), problem.reason] for problem in found.problems]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in line] for line in lines)
    atomic.write_bytes(path, b"\xef\xbb\xbf" + text.getvalue().encode())


def _of_song(song: Song) -> list[Cell]:
    return [song.name, song.start or None, song.stop or None, song.caption, song.lyrics, song.language, song.bpm,
            song.key, song.signature, song.genre, song.trigger_word, song.repeats]


def _of_report(heard: SongReport | None) -> list[Cell]:
    if heard is None:
        return [None] * 15
    return [*_of_heard(heard.bpm), *_of_heard(heard.key), *_of_heard(heard.signature), round(heard.seconds, 3),
            heard.sample_rate, heard.channels, _decibels(heard.peak_db), _decibels(heard.loudness),
            round(heard.clipped, 6), round(heard.silent, 4), "yes" if heard.mono else "no", " ".join(heard.warnings)]


def _of_heard(heard: Estimated | None) -> list[Cell]:
    return [heard.value, round(heard.confidence, 2)] if heard else [None, None]


def _decibels(value: float) -> Cell:
    """Text where it is silent, as no spreadsheet has a number for it."""
    return round(value, 2) if math.isfinite(value) else "silent"


def _cell(value: Cell) -> Cell:
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA) else value
