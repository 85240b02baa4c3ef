"""The songs that nodes have shown to people: their rows of the table in the page, and what is written back.

A page names them by an id that is handed out when a node runs, and by the song's place: it never names a file.
Without aiohttp; `song_routes.py` answers the page.
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
from ...sidestep_core.songs.sidecar_writer import sidecars_beside, write_sidecar
from ...sidestep_core.songs.sidecars import parse_sidecars
from ...sidestep_core.songs.song import Song, SongFolder
from ..host.wording import readable, sentence
from . import song_audio

MOST_SHOWN = 64
"""Folders of songs that are remembered; the oldest are forgotten."""
MOST_ROWS = 100
"""In one answer."""
MOST_PROBLEMS = 200
MOST_CHARACTERS = 100_000
"""Of a text that is written into a sidecar."""
MOST_REMEMBERED = 100_000
"""Songs, in all folders together."""


class Words(TypedDict):
    """What a person can edit, as text; empty where nothing is known."""

    caption: str
    genre: str
    lyrics: str
    language: str
    bpm: str
    key: str
    signature: str


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """Songs in a table, and what was written about each when its folder was read (None: as in _found, or unknown)."""

    folder: SongFolder
    read: tuple[Words | None, ...]


_shown: OrderedDict[str, _Shown] = OrderedDict()
_found: OrderedDict[Path, Words | None] = OrderedDict()
"""What was written about a song when its folder was read last; None where a list elsewhere says it."""
_lock = threading.Lock()
"""For what is remembered."""
_writing = threading.Lock()
"""One at a time: a file is read before it is written."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What became of writing the notes of all songs."""

    songs: int
    """So many had something new to write."""
    problems: tuple[str, ...]
    """Of the others, in words."""


class Gone(DatasetError):
    """The page asks for songs that are not remembered."""


def show(found: SongFolder) -> dict[str, object]:
    """What a node tells the page about its songs: how many there are, and the id to ask for them."""
    key = secrets.token_urlsafe(16)
    with _lock:
        _shown[key] = _Shown(folder=found, read=tuple(_found.get(song.path) for song in found.songs))
        while len(_shown) > MOST_SHOWN:
            _shown.popitem(last=False)
    text = f"{len(found.songs)} song{'s' * (len(found.songs) != 1)}"
    message = f"{text}, {len(found.problems)} left out." if found.problems else f"{text}."
    return {"preview": key, "songs": len(found.songs), "message": message,
            "problems": _reasons(found)}


def is_known(key: str) -> bool:
    """Whether the songs of this id are remembered."""
    with _lock:
        return key in _shown


def song_at(key: str, index: int) -> Song:
    """The song at its place.  Gone where there is none."""
    songs = _folder(key).songs
    if not 0 <= index < len(songs):
        raise Gone("There is no such song. Run the workflow again.")
    return songs[index]


def rows(key: str, first: int, count: int) -> dict[str, object]:
    """Rows of the table from `first` on, at most MOST_ROWS; reads the headers of files that nobody listened to."""
    found = _folder(key)
    last = min(len(found.songs), first + min(count, MOST_ROWS))
    return {
        "total": len(found.songs), "first": first, "rows": _rows(found, range(first, last)),
        "left_out": _reasons(found),
        "left_out_total": len(found.problems),
    }


def remember(found: SongFolder, given: Path) -> None:
    """Keep what is written about songs that were just found in a folder, to tell later what is new about them."""
    described_elsewhere = any(not song.path.is_relative_to(given.absolute()) for song in found.songs)
    with _lock:
        for song in found.songs:
            _found.pop(song.path, None)
            _found[song.path] = None if described_elsewhere else words_of(song)
        while len(_found) > MOST_REMEMBERED:
            _found.popitem(last=False)


def save(key: str, index: int, words: Mapping[str, object]) -> dict[str, object]:
    """Write the texts that a person changed of a song beside it, with all that is known of it here and not there, and
    give its new row.

    Raises ConfigError or DatasetError where a text is not what its name says; then nothing is written.
    """
    with _writing:
        song = song_at(key, index)
        texts = _texts(words)
        _write(key, index, texts)
        _replace_song(key, index, replace(song, **_values(song, _there(key, index) | _changed(song, texts))))
        [row] = _rows(_folder(key), range(index, index + 1))
        return row


def save_all(key: str) -> Written:
    """Write beside every song what is known of it here and not there, such as an analysed tempo or a new caption."""
    with _writing:
        count, problems = 0, []
        for index, song in enumerate(_folder(key).songs):
            try:
                count += _write(key, index, {})
            except (DatasetError, ConfigError, OSError) as error:
                problems.append(f"{song.name}: {sentence(error)}")
        return Written(songs=count, problems=tuple(problems))


def _write(key: str, index: int, texts: Mapping[str, str]) -> bool:
    """Whether there was something to write.

    What a person wrote in another table, another tab or an editor since the folder was read is never undone by what is
    merely known here.
    """
    song, read = song_at(key, index), _read(key, index)
    if song.start or song.stop:
        raise DatasetError("This is a section of a song, and its words are part of the song's. Edit the whole song, in "
                           "the table of Build Dataset.")
    with _lock:
        if song.path in _found and _found[song.path] is None:
            raise DatasetError("A dataset.json elsewhere describes this song, and what lies beside it is not read. "
                               "Edit that file, or enter the folder of the songs on Build Dataset.")
    if not song.path.is_file():
        raise DatasetError("The song is not there any more.")
    changed = _changed(song, texts)
    found_out = {name: text for name, text in words_of(song).items() if text and text != read[name]}
    if not changed and not found_out:
        return False
    there = _there(key, index)
    values = _values(song, {name: text for name, text in found_out.items() if there[name] == read[name]} | changed)
    if values:
        write_sidecar(song, values)
    return bool(values)


def _changed(song: Song, texts: Mapping[str, str]) -> dict[str, str]:
    known = words_of(song)
    return {name: text for name, text in texts.items() if text != known[name]}


def _read(key: str, index: int) -> Words:
    """What was written about a song when its folder was read."""
    with _lock:
        read = _shown[key].read[index]
    return words_of(song_at(key, index)) if read is None else read


def _there(key: str, index: int) -> dict[str, str]:
    """What is written about a song now: its sidecars are read anew."""
    song, read = song_at(key, index), _read(key, index)
    said = parse_sidecars(sidecars_beside(song))
    now = words_of(replace(song, **said))
    return {name: now[name] if name in said else text for name, text in read.items()}


def words_of(song: Song) -> Words:
    """What a person can edit of a song."""
    return {"caption": song.caption, "genre": song.genre, "lyrics": song.lyrics,
            "language": "" if song.language == "unknown" else song.language,
            "bpm": "" if song.bpm is None else str(song.bpm), "key": song.key, "signature": song.signature}


def _texts(words: Mapping[str, object]) -> dict[str, str]:
    """The texts, if they are such as can be edited here."""
    texts = {}
    for name, text in words.items():
        if name not in Words.__annotations__ or not isinstance(text, str):
            raise ConfigError(f"{name!r} is not a text that can be edited here.")
        if len(text) > MOST_CHARACTERS:
            raise ConfigError(f"{name} has {len(text)} characters; at most {MOST_CHARACTERS} can be written.")
        texts[name] = text.replace("\r\n", "\n").strip()
    return texts


def _values(song: Song, texts: Mapping[str, str]) -> SongMetadata:
    """The texts as a song's notes; an empty one takes a note away.  DatasetError where one is not valid."""
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
    """What is left out, and why."""
    return [{"name": problem.name, "reason": readable(problem.reason)}
            for problem in found.problems[:MOST_PROBLEMS]]


def _rows(found: SongFolder, places: range) -> list[dict[str, object]]:
    names = {found.songs[index].name for index in places}
    reports = {report.name: report for report in found.reports if report.name in names}
    notices = [(notice.name, readable(notice.reason)) for notice in found.notices if notice.name in names]
    return [_row(index, song, reports.get(song.name), [reason for name, reason in notices if name == song.name])
            for index, song in ((index, found.songs[index]) for index in places)]


def _row(index: int, song: Song, report: SongReport | None, notices: list[str]) -> dict[str, object]:
    """What the page shows of a song; no path."""
    warnings = [*notices, *(report.warnings if report else ())]
    seconds = 0.0
    try:
        seconds = report.seconds if report else container.facts(song.path).seconds
    except DatasetError as error:
        warnings.append(sentence(error))
    heard = {"bpm": report.bpm, "key": report.key, "signature": report.signature} if report else {}
    return {
        "index": index, "name": song.name, **words_of(song), "instrumental": song.instrumental,
        "repeats": song.repeats, "start": song.start, "seconds": round((song.stop or seconds) - song.start, 2),
        "section": bool(song.start or song.stop), "as_it_is": song_audio.browsers_play(song.path),
        "heard": {name: _told(value) for name, value in heard.items() if value is not None}, "warnings": warnings,
    }


def _told(heard: Estimated) -> str:
    """A value with how sure it is."""
    return f"{heard.value}, {heard.confidence:.0%} sure"
