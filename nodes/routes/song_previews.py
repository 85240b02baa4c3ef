"""Songs in the tables of nodes: rows for the page, and edits written back to sidecars.

The page refers to a song by an id that a run hands out and an index, never by a path.  No aiohttp here; songs.py
answers the page.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from ...sidestep_core.audio import container
from ...sidestep_core.errors import ConfigError, DatasetError
from ...sidestep_core.songs.metadata import SongMetadata, validated
from ...sidestep_core.songs.report import Estimated, SongReport
from ...sidestep_core.songs.sidecar_writer import sidecars_of_song, write_sidecar
from ...sidestep_core.songs.sidecars import parse_sidecars
from ...sidestep_core.songs.song import Song, SongFolder
from ..host.wording import readable, sentence
from . import song_audio

MAX_SHOWN = 64
"""Song folders kept; the oldest are dropped."""
MAX_ROWS = 100
"""Rows in one answer."""
MAX_PROBLEMS = 200
MAX_CHARACTERS = 100_000
"""Characters of a text that is written into a sidecar."""
MAX_REMEMBERED = 100_000
"""Songs kept, in all folders together."""


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
_writing = threading.Lock()
"""Serializes writes, as a file is read before it is written."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """Result of writing the sidecars of all songs."""

    songs: int
    """Number of songs with something new to write."""
    problems: tuple[str, ...]
    """Sentences about songs that could not be written."""


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


def shown_folders() -> list[dict[str, object]]:
    """Folders of the songs that nodes have shown, by name, the latest first, each once; without their paths."""
    with _lock:
        latest = {shown.folder.folder: (key, len(shown.folder.songs)) for key, shown in _shown.items()}
    return [{"preview": key, "name": folder.name, "songs": songs}
            for folder, (key, songs) in reversed(latest.items())]


def is_known(key: str) -> bool:
    """True while the songs of this id are kept."""
    with _lock:
        return key in _shown


def song_at(key: str, index: int) -> Song:
    """Song at an index; raises Gone where there is none."""
    songs = _folder(key).songs
    if not 0 <= index < len(songs):
        raise Gone("There is no such song. Run the workflow again.")
    return songs[index]


def rows(key: str, first: int, count: int) -> dict[str, object]:
    """Rows of the table from `first` on, at most MAX_ROWS; reads the headers of files without a report."""
    found = _folder(key)
    last = min(len(found.songs), first + min(count, MAX_ROWS))
    return {
        "total": len(found.songs), "first": first, "rows": _rows(found, range(first, last)),
        "left_out": _reasons(found),
        "left_out_total": len(found.problems),
    }


def remember(found: SongFolder, given: Path) -> None:
    """Keep the text fields of songs just found in a folder, to know later which are new."""
    described_elsewhere = any(not song.path.is_relative_to(given.absolute()) for song in found.songs)
    with _lock:
        for song in found.songs:
            _found.pop(song.path, None)
            _found[song.path] = None if described_elsewhere else text_fields(song)
        while len(_found) > MAX_REMEMBERED:
            _found.popitem(last=False)


def save(key: str, index: int, fields: Mapping[str, object]) -> dict[str, object]:
    """Write the edited text fields of a song, and new ones such as estimates, to its sidecars; return its new row.

    Raises ConfigError or DatasetError for an invalid text; then nothing is written.
    """
    with _writing:
        song = song_at(key, index)
        texts = _checked(fields)
        _write(key, index, texts)
        _replace_song(key, index, replace(song, **_values(song, _there(key, index) | _changed(song, texts))))
        [row] = _rows(_folder(key), range(index, index + 1))
        return row


def save_all(key: str) -> Written:
    """Write the new text fields of every song, such as an estimated tempo or a caption, to its sidecars."""
    with _writing:
        count, problems = 0, []
        for index, song in enumerate(_folder(key).songs):
            try:
                count += _write(key, index, {})
            except (DatasetError, ConfigError, OSError) as error:
                problems.append(f"{song.name}: {sentence(error)}")
        return Written(songs=count, problems=tuple(problems))


def _write(key: str, index: int, texts: Mapping[str, str]) -> bool:
    """Write edited and new text fields; return whether there were any.

    New fields never replace edits made in another table, tab or editor since the folder was read.
    """
    song, read = song_at(key, index), _read(key, index)
    if song.start or song.stop:
        raise DatasetError("This is a section of a song. Edit the whole song, in the table of Build Dataset.")
    with _lock:
        if song.path in _found and _found[song.path] is None:
            raise DatasetError("A dataset.json elsewhere describes this song, and its text files are not read. "
                               "Edit that file, or enter the folder of the songs on Build Dataset.")
    if not song.path.is_file():
        raise DatasetError("The song is not there any more.")
    changed = _changed(song, texts)
    new = {name: text for name, text in text_fields(song).items() if text and text != read[name]}
    if not changed and not new:
        return False
    there = _there(key, index)
    values = _values(song, {name: text for name, text in new.items() if there[name] == read[name]} | changed)
    if values:
        write_sidecar(song, values)
    return bool(values)


def _changed(song: Song, texts: Mapping[str, str]) -> dict[str, str]:
    known = text_fields(song)
    return {name: text for name, text in texts.items() if text != known[name]}


def _read(key: str, index: int) -> TextFields:
    """Text fields of a song when its folder was read."""
    with _lock:
        read = _shown[key].read[index]
    return text_fields(song_at(key, index)) if read is None else read


def _there(key: str, index: int) -> dict[str, str]:
    """Text fields of a song now, from its sidecars on the disk."""
    song, read = song_at(key, index), _read(key, index)
    metadata = parse_sidecars(sidecars_of_song(song))
    now = text_fields(replace(song, **metadata))
    return {name: now[name] if name in metadata else text for name, text in read.items()}


def text_fields(song: Song) -> TextFields:
    """Editable metadata of a song."""
    return {"caption": song.caption, "genre": song.genre, "lyrics": song.lyrics,
            "language": "" if song.language == "unknown" else song.language,
            "bpm": "" if song.bpm is None else str(song.bpm), "key": song.key, "signature": song.signature}


def _checked(fields: Mapping[str, object]) -> dict[str, str]:
    """Check the names, types and lengths of edited text fields."""
    texts = {}
    for name, text in fields.items():
        if name not in TextFields.__annotations__ or not isinstance(text, str):
            raise ConfigError(f"{name!r} is not a text that can be edited here.")
        if len(text) > MAX_CHARACTERS:
            raise ConfigError(f"{name} has {len(text)} characters; at most {MAX_CHARACTERS} can be written.")
        texts[name] = text.replace("\r\n", "\n").strip()
    return texts


def _values(song: Song, texts: Mapping[str, str]) -> SongMetadata:
    """Convert texts to metadata; an empty one removes the field.  DatasetError for an invalid one."""
    plain = vars(Song(path=song.path, name=song.name))
    return {name: plain[name] if value is None else value for name, value in validated(texts).items()}


def _replace_song(key: str, index: int, song: Song) -> None:
    found = _folder(key)
    with _lock:
        songs = (*found.songs[:index], song, *found.songs[index + 1:])
        _shown[key] = replace(_shown[key], folder=replace(found, songs=songs))


def _folder(key: str) -> SongFolder:
    with _lock:
        if key not in _shown:
            raise Gone("These songs were shown before ComfyUI was restarted. Run the workflow again.")
        _shown.move_to_end(key)
        return _shown[key].folder


def _reasons(found: SongFolder) -> list[dict[str, str]]:
    """Files that are left out, with the reasons."""
    return [{"name": problem.name, "reason": readable(problem.reason)}
            for problem in found.problems[:MAX_PROBLEMS]]


def _rows(found: SongFolder, places: range) -> list[dict[str, object]]:
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
