"""Songs of a folder: files, then the metadata of each source, merged once, then songs.

Sources from the weakest to the strongest: tags of the audio file, lists of other names, the lists of LIST_FILES,
sidecars, and a list's row about a section.  A dataset.json that is opened by itself is the only source for its songs.
One bad file never hides the others: it becomes a Problem.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..audio import container
from ..errors import DatasetError
from ..io.text import bad_character
from ..io.walk import MayRead, Tick
from .files import AudioFile, find_files, no_audio_reason, printable, relative
from .lists import DATASET_FILE, DatasetList, Row, list_conflicts, read_dataset_json, read_lists
from .metadata import Entry, Remarks, SongMetadata, Source, merge
from .references import assign, folder_of, resolve
from .sidecars import parse_sidecars, read_sidecars
from .song import Problem, Song, SongFolder, none_left
from .tags import TAG_FIELDS, parse_tags
from .unread import unknown, unread


def seconds_of(found: SongFolder) -> float:
    """Sum the lengths of the songs, as the headers of their files state them; files without one count as 0."""
    total = 0.0
    for song in found.songs:
        try:
            total += (song.stop or container.facts(song.path).seconds) - song.start
        except DatasetError:
            continue  # left out when the songs are preprocessed, with the reason
    return total


def find_songs(folder: Path, tick: Tick = lambda: None, may_read: MayRead = lambda path: True) -> SongFolder:
    """Find every audio file below `folder` with its metadata, sorted by name; or the songs of a dataset.json.

    A folder without audio whose dataset.json lists songs elsewhere stands for that file; `may_read` is asked of each
    path in it.  Hidden files are skipped, links not followed; `tick` is called all the while and may raise.
    Raises DatasetError if there is no such folder or no usable song, or if dataset.json or the table is unreadable.
    """
    folder = Path(os.path.normpath(folder.expanduser().absolute()))
    if folder.is_file() and folder.suffix.lower() == ".json":
        return _listed_songs(folder, tick, may_read)
    if not folder.is_dir():
        reason = "is not a folder" if folder.exists() else "does not exist"
        raise DatasetError(f"{folder} {reason}. Choose the folder that holds your songs, or its {DATASET_FILE}.")
    collected = _Collected()
    files = find_files(folder, collected.leave_out, tick)
    if not files.songs and DATASET_FILE in files.others:
        return _listed_songs(folder / DATASET_FILE, tick, may_read)
    lists, reasons = read_lists(folder, files.others, tick)
    collected.unknown += [(name, entry) for name, listed in lists.items() for entry in listed.unknown]
    others = [name for name in files.others if name not in lists]
    for name, reason in unread(others, sorted(files.songs), reasons, folder):
        collected.notice(name, reason)
    rows = _rows_by_song(lists, files.songs, folder, collected)
    for name, file in sorted(files.songs.items()):
        tick()
        with collected.song(name) as remarks:
            for song in _songs(name, file, rows.get(name, ()), remarks):
                collected.add(song, DATASET_FILE)
    if not files.songs:
        collected.leave_out(folder.name, no_audio_reason(folder))
    return collected.folder(folder, lists[DATASET_FILE].genre_ratio if DATASET_FILE in lists else 0.0)


def _rows_by_song(lists: Mapping[str, DatasetList], songs: Mapping[str, AudioFile], folder: Path,
                  collected: _Collected) -> dict[str, list[Row]]:
    """Rows of each song from all lists, from the weakest to the strongest."""
    rows: dict[str, list[Row]] = {}
    for name, listed in lists.items():
        below = name[:name.rfind("/") + 1]
        for song, own in assign(listed.rows, songs, folder, collected.leave_out, below).items():
            rows.setdefault(song, []).extend(own)
    return rows


def _songs(name: str, file: AudioFile, rows: Sequence[Row], remarks: Remarks) -> list[Song]:
    """Make the song with its merged metadata, or its sections where a list has some.

    Raises DatasetError where the file or its metadata cannot be used.
    """
    _require_usable(file.path, name)
    sources = _sources(file, [row for row in rows if not row.is_section], remarks)
    sections = [row for row in rows if row.is_section]
    if not sections:
        return [Song(path=file.path, name=name, **merge(sources))]
    return [_listed_song(file.path, name, merge([*sources, Source(row.where, row.metadata(remarks))]), row)
            for row in sections]


def _sources(file: AudioFile, rows: Sequence[Row], remarks: Remarks) -> list[Source]:
    """Metadata of a whole file by source, from the weakest to the strongest."""
    sources = [Source(row.where, row.metadata(remarks)) for row in rows]
    remarks.sentences.extend(list_conflicts(sources))
    sidecars = read_sidecars(file.path.parent, file.sidecars)
    sources.append(Source("sidecars", parse_sidecars(sidecars, remarks)))
    if file.twins and file.sidecars:
        remarks.sentences.append(
            f"It shares {', '.join(sorted(file.sidecars.values()))} with {', '.join(file.twins)}; each has these "
            "notes. Remove one of the songs, or give them names of their own.")
    # Tags are opened only where they can add something.
    if not merge(sources).keys() >= TAG_FIELDS:
        tags = parse_tags(container.tags(file.path), file.path.name, remarks)
        sources.insert(0, Source(file.path.name, tags))
    return sources


def _listed_songs(file: Path, tick: Tick, may_read: MayRead) -> SongFolder:
    """Songs of a dataset.json, which alone describes them; sidecars are not read."""
    listed = read_dataset_json(file)
    folder = folder_of(listed, file, may_read)
    collected = _Collected()
    collected.unknown += [(file.name, entry) for entry in listed.unknown]
    if not listed.rows:
        collected.leave_out(file.name, "It lists no song.")
    paths = {row.where: path for row in listed.rows
             if (path := resolve(row.reference, file.parent, may_read)) is not None}
    if lost := [row for row in listed.rows if row.where not in paths]:
        near = find_files(file.parent, collected.leave_out, tick).songs
        assigned = assign(lost, near, file.parent, collected.leave_out)
        paths |= {row.where: near[name].path for name, rows in assigned.items() for row in rows}
    for row in listed.rows:
        if row.where not in paths:
            continue
        path = paths[row.where]
        name = relative(path, folder) if path.is_relative_to(folder) else path.as_posix()
        with collected.song(name) as remarks:
            _require_usable(path, name)
            collected.add(_listed_song(path, name, row.metadata(remarks), row), row.where)
    return collected.folder(folder, listed.genre_ratio)


def _listed_song(path: Path, name: str, metadata: SongMetadata, row: Row) -> Song:
    section = f" [{row.start:g}-{row.stop:g} s]" if row.is_section else ""
    return Song(path=path, name=row.name or name + section, start=row.start, stop=row.stop, **metadata)


def _require_usable(path: Path, name: str) -> None:
    """Raise DatasetError where a song's file cannot even be opened."""
    if name != printable(name):
        raise DatasetError("Its name is not valid Unicode. Rename it.")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DatasetError(f"It cannot be opened: {error.strerror}.") from error
    if size == 0:
        raise DatasetError("It is empty (0 bytes). Copy it again or remove it.")
    if not os.access(path, os.R_OK):
        raise DatasetError("It cannot be opened: permission denied. Allow your account to read it.")


class _Collected:
    """Songs, problems and notices of a scan so far."""

    def __init__(self) -> None:
        self.songs: dict[str, Song] = {}
        self.problems: list[Problem] = []
        self.notices: list[Problem] = []
        self.unknown: list[tuple[str, Entry]] = []
        """Values under unknown names, by the song or file that has them."""

    def add(self, song: Song, where: str) -> None:
        """Add a song.  DatasetError where its name, which a list may give it, is taken or not valid Unicode."""
        if song.name != printable(song.name):
            raise DatasetError("Its name is not valid Unicode. Rename it.")
        if song.name in self.songs:
            raise DatasetError(f"{where} lists it a second time. Remove one of the two.")
        if wrong := bad_character(song.name):
            self.notice(song.name, f"Its name {wrong}. Rename it.")
        self.songs[song.name] = song

    def leave_out(self, name: str, reason: str) -> None:
        self.problems.append(Problem(name=printable(name), reason=reason))

    def notice(self, name: str, reason: str) -> None:
        self.notices.append(Problem(name=printable(name), reason=reason))

    @contextlib.contextmanager
    def song(self, name: str) -> Iterator[Remarks]:
        """Turn an error in the block into a Problem of this song; keep the remarks of a usable one."""
        remarks = Remarks()
        try:
            yield remarks
        except DatasetError as error:
            self.leave_out(name, str(error))
        else:
            self.unknown += [(name, entry) for entry in remarks.unknown]
            for reason in remarks.sentences:
                self.notice(name, reason)

    def folder(self, folder: Path, genre_ratio: float) -> SongFolder:
        """Make the result; raises DatasetError without a single song."""
        if not self.songs:
            raise none_left(f"No song in {folder} can be used", self.problems)
        for name, reason in unknown(self.unknown):
            self.notice(name, reason)
        return SongFolder(folder=folder, songs=tuple(self.songs.values()),
                          problems=tuple(sorted(self.problems, key=lambda problem: problem.name)),
                          notices=tuple(self.notices), genre_ratio=genre_ratio)
