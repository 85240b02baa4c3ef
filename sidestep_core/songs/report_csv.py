"""Table of the songs of a folder with metadata and reports, for spreadsheets."""

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
    "repeats", "estimated_bpm", "estimated_bpm_confidence", "estimated_key", "estimated_key_confidence",
    "estimated_signature", "estimated_signature_confidence", "seconds", "sample_rate", "channels", "peak_dbfs",
    "loudness_lufs", "clipped_share", "silent_share", "mono", "warnings", "problem",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Cell = str | int | float | None


def write_report(found: SongFolder, path: Path) -> None:
    """Write a CSV with a line for every song and for every file that is left out, with the reason.

    UTF-8 with a byte-order mark, without which Excel assumes another encoding.  Text that a spreadsheet would run as a
    formula gets an apostrophe in front, as songs come from anywhere.
    """
    reports = {report.name: report for report in found.reports}
    lines = [[*_song_cells(song), *_report_cells(reports.get(song.name)), None] for song in found.songs]
    lines += [[problem.name, *[None] * (len(COLUMNS) - 2), problem.reason] for problem in found.problems]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in line] for line in lines)
    atomic.write_bytes(path, b"\xef\xbb\xbf" + text.getvalue().encode())


def _song_cells(song: Song) -> list[Cell]:
    return [song.name, song.start or None, song.stop or None, song.caption, song.lyrics, song.language, song.bpm,
            song.key, song.signature, song.genre, song.trigger_word, song.repeats]


def _report_cells(report: SongReport | None) -> list[Cell]:
    if report is None:
        return [None] * 15
    estimates = (cell for value in (report.bpm, report.key, report.signature) for cell in _estimate_cells(value))
    return [*estimates, round(report.seconds, 3), report.sample_rate, report.channels, _decibels(report.peak_db),
            _decibels(report.loudness), round(report.clipped, 6), round(report.silent, 4),
            "yes" if report.mono else "no", " ".join(report.warnings)]


def _estimate_cells(estimate: Estimated | None) -> list[Cell]:
    return [estimate.value, round(estimate.confidence, 2)] if estimate else [None, None]


def _decibels(value: float) -> Cell:
    """Round decibels; -inf is the text "silent", as spreadsheets have no number for it."""
    return round(value, 2) if math.isfinite(value) else "silent"


def _cell(value: Cell) -> Cell:
    return f"'{value}" if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA) else value
