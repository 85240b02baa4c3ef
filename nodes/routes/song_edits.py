"""Edits of songs in a table, written to their sidecars: of one song, of all new values, or one change of many songs.

Only a POST, which a click sends, comes here.  The previous content of each file is kept as .bak.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ...sidestep_core.errors import ConfigError, DatasetError
from ...sidestep_core.songs import bulk
from ...sidestep_core.songs.metadata import SongMetadata, validated
from ...sidestep_core.songs.sidecar_writer import sidecars_of_song, write_sidecar
from ...sidestep_core.songs.sidecars import parse_sidecars
from ...sidestep_core.songs.song import Song
from ..host.wording import sentence
from . import song_previews
from .song_previews import TextFields, folder_of, song_at, text_fields

MAX_CHARACTERS = 100_000
"""Characters of a text that is written into a sidecar."""
EXAMPLES = 5
"""Changed songs that a preview of a bulk edit names."""

_writing = threading.Lock()
"""Serializes writes, as a file is read before it is written."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """Result of writing the sidecars of many songs."""

    songs: int
    """Number of songs with something new to write."""
    problems: tuple[str, ...]
    """Sentences about songs that could not be written."""


def save(key: str, index: int, fields: Mapping[str, object]) -> dict[str, object]:
    """Write the edited text fields of a song, and new ones such as estimates, to its sidecars; return its new row.

    Raises ConfigError or DatasetError for an invalid text; then nothing is written.
    """
    with _writing:
        song = song_at(key, index)
        texts = _checked(fields)
        _write(key, index, texts)
        values = _values(song, _there(key, index) | _changed(song, texts))
        song_previews.replace_song(key, index, replace(song, **values))
        [row] = song_previews.rows_at(folder_of(key), [index])
        return row


def save_all(key: str) -> Written:
    """Write the new text fields of every song, such as an estimated tempo or a caption, to its sidecars."""
    with _writing:
        count, problems = 0, []
        for index, song in enumerate(folder_of(key).songs):
            try:
                count += _write(key, index, {})
            except (DatasetError, ConfigError, OSError) as error:
                problems.append(f"{song.name}: {sentence(error)}")
        return Written(songs=count, problems=tuple(problems))


def preview_bulk(key: str, edit: bulk.BulkEdit, only: frozenset[int] | None = None) -> dict[str, object]:
    """Count the songs that a bulk edit would change, of those at the given indices; nothing is written."""
    songs = folder_of(key).songs
    found = [index for index, _ in _changes(key, edit, only)]
    return {"songs": len(found), "examples": [songs[index].name for index in found[:EXAMPLES]]}


def save_bulk(key: str, edit: bulk.BulkEdit, only: frozenset[int] | None = None) -> Written:
    """Write a bulk edit to the sidecars of the songs that it changes."""
    with _writing:
        count, problems = 0, []
        for index, new in list(_changes(key, edit, only)):
            song = song_at(key, index)
            try:
                _require_writable(song)
                known, there = text_fields(song), _there(key, index)
                if any(there[name] != known[name] for name in new if name in there):
                    raise DatasetError("Its texts were changed elsewhere. Look at the folder again.")
                write_sidecar(song, new)
            except (DatasetError, ConfigError, OSError) as error:
                problems.append(f"{song.name}: {sentence(error)}")
                continue
            song_previews.replace_song(key, index, replace(song, **_plain(song, validated(new))))
            count += 1
        return Written(songs=count, problems=tuple(problems))


def _changes(key: str, edit: bulk.BulkEdit, only: frozenset[int] | None) -> Iterator[tuple[int, SongMetadata]]:
    for index, new in bulk.changes(folder_of(key).songs, edit):
        if only is None or index in only:
            yield index, new


def _write(key: str, index: int, texts: Mapping[str, str]) -> bool:
    """Write edited and new text fields; return whether there were any.

    New fields never replace edits made in another table, tab or editor since the folder was read.
    """
    song, read = song_at(key, index), song_previews.read_fields(key, index)
    _require_writable(song)
    changed = _changed(song, texts)
    new = {name: text for name, text in text_fields(song).items() if text and text != read[name]}
    if not changed and not new:
        return False
    there = _there(key, index)
    values = _values(song, {name: text for name, text in new.items() if there[name] == read[name]} | changed)
    if values:
        write_sidecar(song, values)
    return bool(values)


def _require_writable(song: Song) -> None:
    """Raise DatasetError unless the song's own text files are what describes it."""
    if song.start or song.stop:
        raise DatasetError("This is a section of a song. Edit the whole song, in the table of Build Dataset.")
    if song_previews.is_described_elsewhere(song):
        raise DatasetError("A dataset.json elsewhere describes this song, and its text files are not read. "
                           "Edit that file, or enter the folder of the songs on Build Dataset.")
    if not song.path.is_file():
        raise DatasetError("The song is not there any more.")


def _changed(song: Song, texts: Mapping[str, str]) -> dict[str, str]:
    known = text_fields(song)
    return {name: text for name, text in texts.items() if text != known[name]}


def _there(key: str, index: int) -> dict[str, str]:
    """Text fields of a song now, from its sidecars on the disk."""
    song, read = song_at(key, index), song_previews.read_fields(key, index)
    metadata = parse_sidecars(sidecars_of_song(song))
    now = text_fields(replace(song, **metadata))
    return {name: now[name] if name in metadata else text for name, text in read.items()}


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
    return _plain(song, validated(texts))


def _plain(song: Song, values: Mapping[str, object]) -> SongMetadata:
    """Values with the usual one of a song for each that is None."""
    plain = vars(Song(path=song.path, name=song.name))
    return {name: plain[name] if value is None else value for name, value in values.items()}
