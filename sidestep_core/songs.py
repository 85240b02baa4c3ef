"""A folder of songs, and what is written about each: in sidecars, in one dataset.json, in one CSV table.

Where sources contradict each other, a sidecar beside the song counts more than dataset.json, and that more than the
table.  One bad file never hides the others: it becomes a Problem.
"""

from __future__ import annotations

import csv
import io
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

from .config import TriggerPosition
from .errors import DatasetError
from .sidecars import SIDECARS, Entry, Notes, json_entries, notes_from, read_json, read_sidecars, read_text
from .song_report import SongReport

EXTENSIONS = frozenset(
    ".aac .ac3 .aif .aifc .aiff .alac .ape .au .caf .dts .eac3 .flac .m4a .m4b .mka .mp2 .mp3 .mp4 .mpc .oga .ogg "
    ".opus .spx .tak .tta .w64 .wav .wave .webm .wma .wv".split()
)
PromptOverride = Literal["", "caption", "genre"]
DATASET_FILE = "dataset.json"
TABLE_FILES = ("key_bpm.csv", "metadata.csv")
_PATH_COLUMNS = ("file", "filename", "file_name", "path", "audio_path")


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
    tag: str = ""
    """The song's own trigger word."""
    tag_position: TriggerPosition | None = None
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


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file that is left out, and why, in words for the person who owns it."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SongFolder:
    """The songs of a folder by name, what is wrong with the files that are not among them, and what they sound like."""

    folder: Path
    """Absolute."""
    songs: tuple[Song, ...]
    problems: tuple[Problem, ...]
    reports: tuple[SongReport, ...] = ()
    """Of the songs that were listened to, by name."""
    genre_ratio: float = 0.0
    """Share of visits, 0 to 1, that show the genre in place of the caption, where a training leaves it to the songs."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """An audio file, and the name of each sidecar beside it by its suffix."""

    path: Path
    sidecars: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class _Row:
    """What a dataset.json or a table says about one song, which it names by a path."""

    reference: str
    where: str
    entries: Sequence[Entry]


def find_songs(folder: Path) -> SongFolder:
    """Every audio file below `folder` with its notes, sorted by name.

    Hidden files and folders are skipped, links are followed once.  Raises DatasetError when there is no such folder,
    when no song in it can be used, or when its dataset.json or table cannot be read at all.
    """
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        reason = "is not a folder" if folder.exists() else "does not exist"
        raise DatasetError(f"{folder} {reason}. Choose the folder that holds your songs.")
    problems: list[Problem] = []
    found = {_relative(item.path, folder): item for item in _walk(folder, problems)}
    sources = [*(_table_rows(folder / name) for name in TABLE_FILES), _dataset_rows(folder / DATASET_FILE)]
    assigned = [_assign(rows, found, folder, problems) for rows in sources]
    songs = []
    for name in sorted(found):
        try:
            songs.append(_song(name, found[name], [rows[name] for rows in assigned if name in rows]))
        except DatasetError as error:
            problems.append(Problem(name=_printable(name), reason=str(error)))
    if not songs:
        reasons = [f"{problem.name}: {problem.reason}" for problem in problems[:5]]
        if not found:
            reasons.append(_nothing_found(folder))
        raise DatasetError(f"No song in {folder} can be used. {' '.join(reasons)}")
    return SongFolder(folder=folder, songs=tuple(songs),
                      problems=tuple(sorted(problems, key=lambda problem: problem.name)))


def _song(name: str, found: _Found, rows: Sequence[_Row]) -> Song:
    """The song with its notes, `rows` from weak to strong; raises DatasetError where something is wrong with it."""
    if name != _printable(name):
        raise DatasetError("Its name is not valid Unicode. Rename it.")
    try:
        size = found.path.stat().st_size
    except OSError as error:
        raise DatasetError(f"It cannot be opened: {error.strerror}.") from error
    if size == 0:
        raise DatasetError("It is empty (0 bytes). Copy it again or remove it.")
    notes: Notes = {}
    for row in rows:
        notes |= notes_from(row.entries)
    notes |= read_sidecars(found.path.parent, found.sidecars)
    return Song(path=found.path, name=name, **notes)


def _walk(root: Path, problems: list[Problem]) -> Iterator[_Found]:
    """Every audio file with its sidecars; a folder reached by two links, or by a loop of them, is read once."""
    def unreadable(error: OSError) -> None:
        problems.append(Problem(name=_relative(Path(error.filename), root), reason=f"Unreadable: {error.strerror}."))

    seen: set[tuple[int, int]] = set()
    for place, subfolders, files in os.walk(root, onerror=unreadable, followlinks=True):
        folder = Path(place)
        facts = folder.stat()
        # Some network and cloud drives number no file: there every folder would look like the first.
        if facts.st_ino and (facts.st_dev, facts.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not _hidden(name))
        yield from _songs_of(folder, [name for name in files if not _hidden(name)])


def _songs_of(folder: Path, files: Sequence[str]) -> Iterator[_Found]:
    paths = [folder / file for file in files]
    songs = [path for path in paths if path.suffix.lower() in EXTENSIONS]
    stems = {path.stem for path in songs}
    sidecars: dict[str, dict[str, str]] = defaultdict(dict)
    for path in paths:
        for suffix in SIDECARS:
            stem = path.name[: -len(suffix)]
            # song_lyrics.txt is the lyrics of song.wav, unless there is a song_lyrics.wav that it belongs to.
            belongs = path.stem == stem or path.stem not in stems
            if path.name.lower().endswith(suffix) and stem in stems and belongs:
                sidecars[stem][suffix] = path.name
    for path in songs:
        yield _Found(path=path, sidecars=sidecars[path.stem])


def _hidden(name: str) -> bool:
    """Also AppleDouble files, which macOS puts beside every file on foreign disks as ._name."""
    return name.startswith(".") or name == "__MACOSX"


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _printable(name: str) -> str:
    """The name without the bytes that no text file, and so no dataset, can hold."""
    return name.encode("utf-8", "replace").decode()


def _nothing_found(folder: Path) -> str:
    endings = Counter(Path(name).suffix.lower() or "no ending" for _, _, files in os.walk(folder) for name in files)
    others = ", ".join(f"{count} x {ending}" for ending, count in endings.most_common(5)) or "no file at all"
    return f"Looked for {' '.join(sorted(EXTENSIONS))}; found {others}."


def _dataset_rows(path: Path) -> Iterator[_Row]:
    """The samples of a dataset.json: an object with "samples" and perhaps "metadata", or the bare list of them."""
    if not path.is_file():
        return
    content = read_json(path)
    metadata = content.get("metadata") if isinstance(content, dict) else None
    samples = content.get("samples") if isinstance(content, dict) else content
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise DatasetError(f"{path.name} must hold a list of samples, or an object with such a list as \"samples\".")
    shared = [Entry("custom_tag", metadata.get("custom_tag"), path.name)] if isinstance(metadata, dict) else []
    for number, sample in enumerate(samples, start=1):
        where = f"{path.name} sample {number}"
        reference = sample.get("audio_path") or sample.get("filename")
        if not isinstance(reference, str):
            raise DatasetError(f"{where} has no audio_path. Add the path of its song, relative to {path.name}.")
        yield _Row(reference=reference, where=where, entries=[*shared, *json_entries(sample, where)])


def _table_rows(path: Path) -> Iterator[_Row]:
    """The rows of a CSV table, separated by commas, semicolons or tabs, with a header and a column of file names."""
    if not path.is_file():
        return
    text = read_text(path)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        column = next((name for name in reader.fieldnames or () if name.strip().lower() in _PATH_COLUMNS), None)
        if column is None:
            raise DatasetError(f"{path.name} has no column 'file' in its first line. Add it, or rename the table.")
        for cells in reader:
            where = f"{path.name} line {reader.line_num}"
            if None in cells:
                raise DatasetError(f"{where} has more cells than line 1. Put texts that hold {delimiter!r} in quotes.")
            if reference := (cells[column] or "").strip():
                yield _Row(reference=reference, where=where, entries=json_entries(cells, where))
    except csv.Error as error:
        raise DatasetError(f"{path.name} line {reader.line_num} is not valid CSV: {error}. Correct it.") from error


def _assign(rows: Iterable[_Row], names: Iterable[str], root: Path, problems: list[Problem]) -> dict[str, _Row]:
    """Each song's row, by the song's name; a row whose song is not there becomes a problem.

    Every row that names its song by path has its choice before those that are left to a mere file name.
    """
    by_path = {_comparable(name): name for name in names}
    by_file: dict[str, list[str]] = defaultdict(list)
    for comparable, name in by_path.items():
        by_file[comparable.rpartition("/")[2]].append(name)
    assigned: dict[str, _Row] = {}
    waiting = []
    for row in rows:
        song = next((by_path[path] for path in _paths_of(row.reference, root) if path in by_path), None)
        if song is None or song in assigned:
            waiting.append(row)
        else:
            assigned[song] = row
    for row in waiting:
        free = [name for name in by_file[_file_name_of(row.reference)] if name not in assigned]
        if len(free) == 1 and _paths_of(row.reference, root)[0] not in by_path:
            assigned[free[0]] = row
        else:
            reason = f"Names {row.reference!r}, which is not in the folder, or is not one song only, or is named twice."
            problems.append(Problem(name=row.where, reason=reason))
    return assigned


def _paths_of(reference: str, root: Path) -> list[str]:
    """The names that a path could mean: itself, or the ends of an absolute one, that of a moved folder included."""
    path = _comparable(reference)
    if not _is_absolute(reference):
        return [path.removeprefix("./")]
    parts = path.split("/")
    return [path.removeprefix(_comparable(str(root)) + "/"), *("/".join(parts[at:]) for at in range(1, len(parts) - 1))]


def _file_name_of(reference: str) -> str:
    """The name that an absolute path or a bare name ends in; a relative path means one place only."""
    folder, _, name = _comparable(reference).rpartition("/")
    return name if _is_absolute(reference) or folder in ("", ".") else ""


def _is_absolute(reference: str) -> bool:
    return PureWindowsPath(reference).is_absolute() or PurePosixPath(reference).is_absolute()


def _comparable(path: str) -> str:
    """Forward slashes and composed characters, as macOS decomposes what others write."""
    return unicodedata.normalize("NFC", path.replace("\\", "/"))
