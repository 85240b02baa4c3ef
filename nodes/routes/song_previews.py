"""Songs in the tables of nodes and of the Songs tab, and their rows for the page.

The page refers to a song by an id that a run hands out and an index, never by a path.  No aiohttp here; songs.py
answers the page.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict, get_args

from ...sidestep_core.audio import container
from ...sidestep_core.errors import DatasetError
from ...sidestep_core.songs.report import Estimated, SongReport
from ...sidestep_core.songs.song import Song, SongFolder
from ..host.wording import readable, sentence
from . import song_audio

MAX_SHOWN = 64
"""Song folders kept; the oldest are dropped."""
MAX_ROWS = 100
"""Rows in one answer."""
MAX_PROBLEMS = 200
MAX_REMEMBERED = 100_000
"""Songs kept, in all folders together."""


Only = Literal["all", "no_caption", "problems"]
"""Filter of a table."""


class TextFields(TypedDict):
    """Editable metadata of a song as text; empty where there is none."""

    caption: str
    genre: str
    lyrics: str
    language: str
    bpm: str
    key: str
    signature: str


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """Songs in a table, with the text fields of each when its folder was read (None if not known)."""

    folder: SongFolder
    read: tuple[TextFields | None, ...]


_shown: OrderedDict[str, _Shown] = OrderedDict()
_found: OrderedDict[Path, TextFields | None] = OrderedDict()
"""Text fields of each song when its folder was last read; None where a list in another folder describes it."""
_lock = threading.Lock()
"""Guards the two dictionaries."""


class Gone(DatasetError):
    """Request for songs that are no longer kept."""


def show(found: SongFolder) -> dict[str, object]:
    """Keep the songs of a node; return their id, number and problems for the page."""
    key = secrets.token_urlsafe(16)
    with _lock:
        _shown[key] = _Shown(folder=found, read=tuple(_found.get(song.path) for song in found.songs))
        while len(_shown) > MAX_SHOWN:
            _shown.popitem(last=False)
    text = f"{len(found.songs)} song{'s' * (len(found.songs) != 1)}"
    message = f"{text}, {len(found.problems)} left out." if found.problems else f"{text}."
    return {"preview": key, "songs": len(found.songs), "message": message,
            "problems": _reasons(found)}


def shown_folders(besides: Path) -> list[dict[str, object]]:
    """Folders of the songs that nodes have shown, by name, the latest first, each once; without their paths.

    Those right in the folder `besides` are left out.
    """
    with _lock:
        latest = {shown.folder.folder: (key, len(shown.folder.songs)) for key, shown in _shown.items()}
    return [{"preview": key, "name": folder.name, "songs": songs}
            for folder, (key, songs) in reversed(latest.items()) if folder.parent != besides.absolute()]


def is_known(key: str) -> bool:
    """True while the songs of this id are kept."""
    with _lock:
        return key in _shown


def song_at(key: str, index: int) -> Song:
    """Song at an index; raises Gone where there is none."""
    songs = folder_of(key).songs
    if not 0 <= index < len(songs):
        raise Gone("There is no such song. Run the workflow again.")
    return songs[index]


def rows(key: str, first: int, count: int, only: Only = "all", text: str = "") -> dict[str, object]:
    """Rows of the table from `first` on, at most MAX_ROWS, of the songs that the filter and the text leave.

    Reads the headers of files without a report.
    """
    found = folder_of(key)
    filtered = matching(found, only, text)
    return {
        "total": len(filtered), "first": first, "rows": rows_at(found, filtered[first:first + min(count, MAX_ROWS)]),
        "all": len(found.songs), "counts": {name: len(matching(found, name, "")) for name in get_args(Only)},
        "left_out": _reasons(found), "left_out_total": len(found.problems),
    }


def matching(found: SongFolder, only: Only, text: str) -> list[int]:
    """Indices of the songs without a caption, or with a warning, whose name, caption or genre has the text in it."""
    warned = {notice.name for notice in found.notices}
    warned |= {report.name for report in found.reports if report.warnings}
    folded = text.strip().casefold()

    def fits(song: Song) -> bool:
        if only == "no_caption" and (song.caption or song.genre) or only == "problems" and song.name not in warned:
            return False
        return not folded or any(folded in value.casefold() for value in (song.name, song.caption, song.genre))

    return [index for index, song in enumerate(found.songs) if fits(song)]


def remember(found: SongFolder, given: Path) -> None:
    """Keep the text fields of songs just found in a folder, to know later which are new."""
    described_elsewhere = any(not song.path.is_relative_to(given.absolute()) for song in found.songs)
    with _lock:
        for song in found.songs:
            _found.pop(song.path, None)
            _found[song.path] = None if described_elsewhere else text_fields(song)
        while len(_found) > MAX_REMEMBERED:
            _found.popitem(last=False)


def read_fields(key: str, index: int) -> TextFields:
    """Text fields of a song when its folder was read."""
    with _lock:
        read = _shown[key].read[index]
    return text_fields(song_at(key, index)) if read is None else read


def is_described_elsewhere(song: Song) -> bool:
    """True where a list in another folder describes the song, in place of its sidecars."""
    with _lock:
        return song.path in _found and _found[song.path] is None


def text_fields(song: Song) -> TextFields:
    """Editable metadata of a song."""
    return {"caption": song.caption, "genre": song.genre, "lyrics": song.lyrics,
            "language": "" if song.language == "unknown" else song.language,
            "bpm": "" if song.bpm is None else str(song.bpm), "key": song.key, "signature": song.signature}


def replace_song(key: str, index: int, song: Song) -> None:
    """Keep another state of a song."""
    found = folder_of(key)
    with _lock:
        songs = (*found.songs[:index], song, *found.songs[index + 1:])
        _shown[key] = replace(_shown[key], folder=replace(found, songs=songs))


def folder_of(key: str) -> SongFolder:
    """Songs of this id; raises Gone where they are no longer kept."""
    with _lock:
        if key not in _shown:
            raise Gone("These songs were shown before ComfyUI was restarted. Run the workflow again.")
        _shown.move_to_end(key)
        return _shown[key].folder


def _reasons(found: SongFolder) -> list[dict[str, str]]:
    """Files that are left out, with the reasons."""
    return [{"name": problem.name, "reason": readable(problem.reason)}
            for problem in found.problems[:MAX_PROBLEMS]]


def rows_at(found: SongFolder, places: Sequence[int]) -> list[dict[str, object]]:
    """Rows of the songs at these indices."""
    names = {found.songs[index].name for index in places}
    reports = {report.name: report for report in found.reports if report.name in names}
    notices = [(notice.name, readable(notice.reason)) for notice in found.notices if notice.name in names]
    return [_row(index, song, reports.get(song.name), [reason for name, reason in notices if name == song.name])
            for index, song in ((index, found.songs[index]) for index in places)]


def _row(index: int, song: Song, report: SongReport | None, notices: list[str]) -> dict[str, object]:
    """Row of a song for the page; without its path."""
    warnings = [*notices, *(report.warnings if report else ())]
    seconds = 0.0
    try:
        seconds = report.seconds if report else container.facts(song.path).seconds
    except DatasetError as error:
        warnings.append(sentence(error))
    estimates = {"bpm": report.bpm, "key": report.key, "signature": report.signature} if report else {}
    return {
        "index": index, "name": song.name, **text_fields(song), "instrumental": song.instrumental,
        "repeats": song.repeats, "start": song.start, "seconds": round((song.stop or seconds) - song.start, 2),
        "section": bool(song.start or song.stop), "as_it_is": song_audio.browsers_play(song.path),
        "estimated": {name: _estimate_text(value) for name, value in estimates.items() if value is not None},
        "warnings": warnings,
    }


def _estimate_text(estimate: Estimated) -> str:
    """Format an estimate with its confidence."""
    return f"{estimate.value}, {estimate.confidence:.0%} sure"
