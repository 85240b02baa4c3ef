"""Songs of a folder, with metadata from sidecars, one dataset.json, one CSV table and tags.

From the strongest to the weakest: sidecar, dataset.json, table, tags of the audio file.  A dataset.json that is opened
by itself describes the songs that it lists alone.  One bad file never hides the others: it becomes a Problem.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..audio import container
from ..config import TriggerPosition
from ..errors import DatasetError
from ..io.text import bad_character
from ..io.walk import MayRead, Tick
from .files import AudioFile, Scan, is_audio, printable, relative, scan, what_is_there
from .lists import LIST_ENDINGS, DatasetList, Row, assign, notes_of, read_dataset_json, read_list
from .metadata import Entry, PromptOverride, Remarks, SongMetadata, merged
from .report import SongReport
from .sidecars import notes_in, read_sidecars
from .tags import FIELDS, notes_in_tags
from .unread import unknown, unread

DATASET_FILE = "dataset.json"
LIST_FILES = ("key_bpm.csv", "metadata.csv", "metadata.jsonl", DATASET_FILE)
"""From the weakest to the strongest, where they lie in the folder itself; lists of other names are weaker."""
REASONS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Song:
    """An audio file and everything that the person wrote about it."""

    path: Path
    """Absolute."""
    name: str
    """The path relative to the scanned folder, with forward slashes: the song's identity."""
    caption: str = ""
    lyrics: str = ""
    """Empty for instrumentals."""
    language: str = "unknown"
    bpm: int | None = None
    key: str = ""
    """As typed, such as C major."""
    signature: str = ""
    """As typed, such as 4/4 or 4."""
    genre: str = ""
    trigger_word: str = ""
    """The song's own trigger word."""
    trigger_position: TriggerPosition | None = None
    """Where the trigger word goes; None leaves it to the dataset."""
    prompt_override: PromptOverride = ""
    """Always the caption, or always the genre; empty where a training may choose by its genre_ratio."""
    instrumental: bool = False
    """Said so; its lyrics, if any, are kept but not sung."""
    repeats: int = 1
    """How often an epoch visits it."""
    start: float = 0.0
    stop: float = 0.0
    """The section of the file, in seconds; stop 0 is its end.  Sections of one file have names of their own."""

    def __post_init__(self) -> None:
        if self.start < 0 or (self.stop and self.stop <= self.start):
            raise DatasetError(f"Its section ends at {self.stop:g} s, but begins at {self.start:g} s. Correct it.")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that is left out, or to be looked at, and why, in words for the person who owns it."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SongFolder:
    """Songs of a folder by name, or of a list in its order, with what is left out and what was measured."""

    folder: Path
    """Absolute."""
    songs: tuple[Song, ...]
    problems: tuple[Problem, ...]
    reports: tuple[SongReport, ...] = ()
    """Of the songs that were listened to, by name."""
    notices: tuple[Problem, ...] = ()
    """What could be meant in two ways, and which was taken; these songs are used."""
    genre_ratio: float = 0.0
    """Share of draws, 0 to 1, that show the genre in place of the caption, where a training leaves it to the songs."""

    @property
    def shared_trigger_word(self) -> str:
        """Trigger word of all songs; empty where they differ."""
        trigger_words = {song.trigger_word for song in self.songs}
        return trigger_words.pop() if len(trigger_words) == 1 else ""


def none_left(what: str, problems: Sequence[Problem]) -> DatasetError:
    """The error that nothing can be used, with the first of the reasons."""
    reasons = "; ".join(f"{problem.name}: {problem.reason.rstrip('.')}" for problem in problems[:REASONS_SHOWN])
    return DatasetError(f"{what}. {reasons}.")


def find_songs(folder: Path, tick: Tick = lambda: None, may_read: MayRead = lambda path: True) -> SongFolder:
    """Find every audio file below `folder` with its metadata, sorted by name; or the songs of a dataset.json.

    A folder without audio whose dataset.json lists songs elsewhere stands for that file; `may_read` is asked of each
    path in it.  Hidden files are skipped, links not followed; `tick` is called all the while and may raise.
    Raises DatasetError if there is no such folder or no usable song, or if dataset.json or the table is unreadable.
    """
    folder = Path(os.path.normpath(folder.expanduser().absolute()))
    if folder.is_file() and folder.suffix.lower() == ".json":
        return _in_list(folder, tick, may_read)
    if not folder.is_dir():
        reason = "is not a folder" if folder.exists() else "does not exist"
        raise DatasetError(f"{folder} {reason}. Choose the folder that holds your songs, or its {DATASET_FILE}.")
    gathered = _Gathered()
    found = scan(folder, gathered.leave_out, tick)
    if not found.songs and DATASET_FILE in found.others:
        return _in_list(folder / DATASET_FILE, tick, may_read)
    lists = _lists(folder, found, gathered, tick)
    assigned = [assign(listed.rows, found.songs, folder, gathered.leave_out, name[:name.rfind("/") + 1])
                for name, listed in lists.items()]
    for name in sorted(found.songs):
        tick()
        rows = [row for source in assigned for row in source.get(name, ())]
        with gathered.song(name) as remarks:
            for song in _songs_of(name, found.songs[name], rows, remarks):
                gathered.add(song, DATASET_FILE)
    if not found.songs:
        gathered.leave_out(folder.name, what_is_there(folder))
    return gathered.folder(folder, lists[DATASET_FILE].genre_ratio if DATASET_FILE in lists else 0.0)


def _lists(folder: Path, found: Scan, gathered: _Gathered, tick: Tick) -> dict[str, DatasetList]:
    """The lists in a folder by name, from the weakest to the strongest; all other texts that nothing reads are noticed.

    Raises DatasetError where one of LIST_FILES cannot be read.
    """
    named = [name for name in LIST_FILES if name in found.others]
    lists, reasons = {}, {}
    for name in found.others:
        tick()
        if name not in named and name.lower().endswith(LIST_ENDINGS):
            try:
                listed = read_list(folder / name)
            except DatasetError as error:
                reasons[name] = f"It is not read. {error}"
                continue
            if listed.rows:
                lists[name] = listed
            else:
                reasons[name] = "It is not read, as it lists no song."
    lists |= {name: read_list(folder / name) for name in named}
    for name, listed in lists.items():
        gathered.unknown += [(name, entry) for entry in listed.unknown]
    others = [name for name in found.others if name not in lists]
    for name, reason in unread(others, sorted(found.songs), reasons, folder):
        gathered.notice(name, reason)
    return lists


def _in_list(file: Path, tick: Tick, may_read: MayRead) -> SongFolder:
    """The songs that a dataset.json lists, as it describes them; what lies beside them is not read."""
    listed = read_dataset_json(file)
    folder = _folder_of(listed, file, may_read)
    gathered = _Gathered()
    gathered.unknown += [(file.name, entry) for entry in listed.unknown]
    if not listed.rows:
        gathered.leave_out(file.name, "It lists no song.")
    paths = {row.where: path for row in listed.rows
             if (path := _path_of(row.reference, file.parent, may_read)) is not None}
    if lost := [row for row in listed.rows if row.where not in paths]:
        found = scan(file.parent, gathered.leave_out, tick).songs
        near = {name: song.path for name, song in found.items()}
        assigned = assign(lost, near, file.parent, gathered.leave_out)
        paths |= {row.where: near[name] for name, rows in assigned.items() for row in rows}
    for row in listed.rows:
        if row.where not in paths:
            continue
        path = paths[row.where]
        name = relative(path, folder) if path.is_relative_to(folder) else path.as_posix()
        with gathered.song(name) as remarks:
            _require_usable(path, name)
            gathered.add(_song(path, name, row.notes(remarks), row), row.where)
    return gathered.folder(folder, listed.genre_ratio)


def _folder_of(listed: DatasetList, file: Path, may_read: MayRead) -> Path:
    """Where the names of the songs in a dataset.json begin."""
    named = Path(listed.folder or ".")
    # It may be longer than any path can be.
    with contextlib.suppress(OSError):
        if named.is_absolute() and may_read(named) and named.is_dir():
            return named
    return file.parent


class _Gathered:
    """What a search has found so far."""

    def __init__(self) -> None:
        self.songs: dict[str, Song] = {}
        self.problems: list[Problem] = []
        self.notices: list[Problem] = []
        self.unknown: list[tuple[str, Entry]] = []
        """Values under names that mean nothing, by the song or file that has them."""

    def add(self, song: Song, where: str) -> None:
        """DatasetError where its name, which the list at `where` may give it, is that of another or no text."""
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
        """Where a song is looked at: an error costs this song only; remarks about it are kept if it is used."""
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
        """All of it; raises DatasetError where there is no song."""
        if not self.songs:
            raise none_left(f"No song in {folder} can be used", self.problems)
        for name, reason in unknown(self.unknown):
            self.notice(name, reason)
        return SongFolder(folder=folder, songs=tuple(self.songs.values()),
                          problems=tuple(sorted(self.problems, key=lambda problem: problem.name)),
                          notices=tuple(self.notices), genre_ratio=genre_ratio)


def _songs_of(name: str, file: AudioFile, rows: Sequence[Row], remarks: Remarks) -> list[Song]:
    """The song with its notes, `rows` from weak to strong; its sections, where the list has such.

    Raises DatasetError where something is wrong with it.
    """
    _require_usable(file.path, name)
    notes = notes_of([row for row in rows if not row.is_section], remarks)
    notes = merged(notes, notes_in(read_sidecars(file.path.parent, file.sidecars), remarks))
    if file.twins and file.sidecars:
        remarks.sentences.append(
            f"It shares {', '.join(sorted(file.sidecars.values()))} with {', '.join(file.twins)}; each has these "
            "notes. Remove one of the songs, or give them names of their own.")
    if not notes.keys() >= FIELDS:
        notes = merged(notes_in_tags(container.tags(file.path), file.path.name, remarks), notes)
    sections = [row for row in rows if row.is_section]
    return ([_song(file.path, name, merged(notes, row.notes(remarks)), row) for row in sections]
            or [_song(file.path, name, notes)])


def _song(path: Path, name: str, notes: SongMetadata, row: Row | None = None) -> Song:
    if row is None:
        return Song(path=path, name=name, **notes)
    section = f" [{row.start:g}-{row.stop:g} s]" if row.is_section else ""
    return Song(path=path, name=row.name or name + section, start=row.start, stop=row.stop, **notes)


def _require_usable(path: Path, name: str) -> None:
    """DatasetError where a song's file cannot even be opened."""
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


def _path_of(reference: str, folder: Path, may_read: MayRead) -> Path | None:
    """The audio file that a list in `folder` names, if it is there and may be read."""
    for spelled in (reference, reference.replace("\\", "/")):
        path = Path(os.path.normpath(folder / spelled))
        # A reference may be longer than any name can be.
        with contextlib.suppress(OSError):
            if is_audio(path.name) and may_read(path) and path.is_file():
                return path
    return None
