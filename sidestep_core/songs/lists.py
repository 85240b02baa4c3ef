"""Lists of many songs: a dataset.json of Side-Step's or ACE-Step's, JSON lines, or a CSV table; and which row is which
song's.

A dataset.json is {"metadata": {...}, "samples": [...]}, or the samples alone, with or without an object around them, or
an object of file names.  Paths in lists are relative to them, or absolute, perhaps on another computer or of a folder
that has moved since.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..errors import DatasetError
from ..io.text import read_text
from ..io.walk import MOST_ENTRIES
from .metadata import QUOTED, Entry, Remarks, SongMetadata, field_of, json_entries, merged, notes_from
from .sidecars import SidecarText, parse_json

NAME_KEY = "song"
"""Of a sample whose path is not its song's name, such as a section; no other program writes it."""
_MOST_SECONDS = 1_000_000
_PATH_NAMES = ("audio_path", "file", "filename", "file_name", "path", "audio", "audio_file", "audio_filepath", "song")
"""How lists call the path of a song, in lower case."""
_METADATA = {"custom_tag": "custom_tag", "tag_position": "tag_position", "all_instrumental": "is_instrumental"}
"""What a list says about all of its songs, by what a song would call it."""
_OTHER_METADATA = {"name", "created_at", "num_samples", "genre_ratio", "folder"}
_SEPARATOR = re.compile(r"sep=(.)\n", re.IGNORECASE)
"""The first line of a table that says what separates its cells, which Excel writes."""
LARGEST_LIST = 1 << 26
"""Bytes of a list."""
LONGEST_PATH = 4096
"""Characters; no system has longer ones."""
MOST_ROWS, MOST_COLUMNS = MOST_ENTRIES, 1000
LIST_ENDINGS = (".csv", ".json", ".jsonl", ".tsv")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a list says about one song, or a section of one, which it names by a path."""

    reference: str
    where: str
    entries: Sequence[Entry]
    shared: Sequence[Entry] = ()
    """What the list says about all of its songs."""
    name: str = ""
    """The song's, where its path is not it."""
    start: float = 0.0
    stop: float = 0.0

    def notes(self, remarks: Remarks) -> SongMetadata:
        """What it says about the song.  Raises DatasetError where a value is not what its name says."""
        own = notes_from(self.entries, remarks)
        shared = notes_from(self.shared, remarks)
        # Where there is no trigger word, the place that all of them have says nothing of this song.
        if "trigger_word" not in own and "trigger_word" not in shared:
            shared.pop("trigger_position", None)
        return merged(shared, own)

    @property
    def is_section(self) -> bool:
        return self.start > 0 or self.stop > 0


def notes_of(rows: Sequence[Row], remarks: Remarks) -> SongMetadata:
    """What lists say about a song, from the weakest to the strongest; a remark where they differ."""
    notes: SongMetadata = {}
    for row in rows:
        said = row.notes(remarks)
        before: Mapping[str, object] = {**notes}
        remarks.sentences.extend(
            f"{row.where} says {value!r:.{QUOTED}}, which counts; another list says {before[field]!r:.{QUOTED}}. "
            "Correct one of them." for field, value in said.items() if before.get(field, value) != value)
        notes = merged(notes, said)
    return notes


@dataclass(frozen=True, kw_only=True)
class DatasetList:
    """What a list holds."""

    rows: tuple[Row, ...] = ()
    genre_ratio: float = 0.0
    folder: str = ""
    """Where its songs' names begin, where that is not the folder that it is in."""
    unknown: tuple[Entry, ...] = ()
    """What it says under names that mean nothing."""


def read_list(path: Path) -> DatasetList:
    """The list in a file with one of LIST_ENDINGS; raises DatasetError where it is none."""
    match path.suffix.lower():
        case ".json":
            return read_dataset_json(path)
        case ".jsonl":
            return DatasetList(rows=_bounded(_json_lines(path), path.name))
        case _:
            return DatasetList(rows=_bounded(table_rows(path), path.name))


def _bounded(rows: Iterable[Row], file: str) -> tuple[Row, ...]:
    """All rows; DatasetError where they are more than there can be songs: each takes a kilobyte of memory."""
    found = tuple(itertools.islice(rows, MOST_ROWS + 1))
    if len(found) > MOST_ROWS:
        raise DatasetError(f"{file} lists more than {MOST_ROWS} songs. Divide it.")
    return found


def read_dataset_json(path: Path) -> DatasetList:
    """The list; raises DatasetError where it is none."""
    content = parse_json(SidecarText(path.name, read_text(path, LARGEST_LIST)))
    around = content if isinstance(content, dict) else {}
    metadata = around.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    samples = _samples(content)
    if samples is None:
        raise DatasetError(f"{path.name} must hold a list of samples, or an object with such a list as \"samples\".")
    shared = [Entry(_METADATA[name], value, f"{path.name}: {name}") for name, value in metadata.items()
              if name in _METADATA]
    others = {name: value for name, value in metadata.items() if name not in {*_METADATA, *_OTHER_METADATA}}
    if any(value is samples for value in around.values()):
        others |= {name: value for name, value in around.items() if value is not samples and value is not metadata}
    folder = metadata.get("folder")
    return DatasetList(
        rows=_bounded((_sample(sample, shared, f"{path.name} sample {number}", path.name)
                       for number, sample in enumerate(samples, start=1)), path.name),
        genre_ratio=_number(metadata.get("genre_ratio"), 100, f"{path.name}: genre_ratio") / 100,
        folder=folder if isinstance(folder, str) else "", unknown=tuple(json_entries(others, path.name)),
    )


def _samples(content: Any) -> list[dict[str, Any]] | None:
    """The samples of a list in one of its forms; None where it has none of them."""
    if isinstance(content, dict) and "samples" not in content:
        lists = [value for value in content.values() if isinstance(value, list) and value]
        if content and all(PurePosixPath(name).suffix and isinstance(said, (str, dict))
                           for name, said in content.items()):
            content = [{_PATH_NAMES[0]: name, **(said if isinstance(said, dict) else {"caption": said})}
                       for name, said in content.items()]
        elif len(lists) == 1:
            content = lists[0]
    samples = content.get("samples") if isinstance(content, dict) else content
    if isinstance(samples, list) and all(isinstance(sample, dict) for sample in samples):
        return samples
    return None


def _json_lines(path: Path) -> Iterator[Row]:
    """A JSON object on each line."""
    for number, line in enumerate(io.StringIO(read_text(path, LARGEST_LIST)), start=1):
        if line.strip():
            where = f"{path.name} line {number}"
            sample = parse_json(SidecarText(where, line))
            if not isinstance(sample, dict):
                raise DatasetError(f"{where} is no JSON object such as {{\"file_name\": \"...\"}}. Correct it.")
            yield _sample(sample, (), where, path.name)


def _sample(sample: Mapping[str, Any], shared: Sequence[Entry], where: str, file: str) -> Row:
    lower = {name.strip().lower(): value for name, value in sample.items()}
    reference = next((lower[name] for name in _PATH_NAMES if lower.get(name) and name != NAME_KEY), lower.get(NAME_KEY))
    if not isinstance(reference, str):
        raise DatasetError(f"{where} has no audio_path. Add the path of its song, relative to {file}.")
    start, stop = (_number(sample.get(name), _MOST_SECONDS, f"{where}: {name}") for name in ("start", "stop"))
    name = sample.get(NAME_KEY)
    return Row(reference=reference, where=where, entries=json_entries(sample, where), shared=shared, start=start,
               stop=stop, name=name if isinstance(name, str) and name.strip() else "")


def _number(value: object, most: float, where: str) -> float:
    """A number from 0 on; 0 where there is none."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise DatasetError(f"{where} must be a number from 0 to {most:,}, got {value!r:.{QUOTED}}.")
    return float(value)


def table_rows(path: Path) -> Iterator[Row]:
    """The rows of a table, separated by commas, semicolons, tabs or bars, with a header and a column of file names."""
    text = read_text(path, LARGEST_LIST)
    separator = _SEPARATOR.match(text)
    text = text[separator.end():] if separator else text
    delimiter = separator[1] if separator else _delimiter(text.partition("\n")[0])
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        names = reader.fieldnames or ()
        if len(names) > MOST_COLUMNS:
            raise DatasetError(f"{path.name} has {len(names)} columns; at most {MOST_COLUMNS} are read.")
        column = next((name for name in names if name.strip().lower() in _PATH_NAMES), None)
        if column is None:
            raise DatasetError(f"{path.name} has no column 'file' in its first line. Add it, or rename the table.")
        empty = True
        for cells in reader:
            empty = False
            where = f"{path.name} line {reader.line_num + bool(separator)}"
            if None in cells:
                raise DatasetError(f"{where} has more cells than line 1. Put texts that hold {delimiter!r} in quotes.")
            reference = (cells[column] or "").strip()
            if reference or any((cell or "").strip() for cell in cells.values()):
                yield Row(reference=reference, where=where, entries=json_entries(cells, where))
        if empty and any(field_of(name) is None for name in names if name != column):
            raise DatasetError(f"{path.name} has one line only, which is taken for the names of its columns. Put "
                               "'file' and 'caption' above it.")
    except csv.Error as error:
        raise DatasetError(f"{path.name} line {reader.line_num} is not valid CSV: {error}. Correct it.") from error


def _delimiter(header: str) -> str:
    """What separates the cells of a table: what makes one of them the path of a song, or else what is there most."""
    by_count = sorted(",;\t|", key=header.count, reverse=True)
    return next((sign for sign in by_count
                 if any(cell.strip().strip('"').lower() in _PATH_NAMES for cell in header.split(sign))), by_count[0])


def assign(rows: Iterable[Row], names: Iterable[str], root: Path, tell: Callable[[str, str], None],
           below: str = "") -> dict[str, list[Row]]:
    """Each song's row, or those of its sections, by the song's name; `below` the root lies the list.

    `tell` is called with the place of each row whose song is not there, and the reason.
    Every row that names its song by path has its choice before those that are left to a mere file name.
    """
    by_path = {_comparable(name): name for name in names}
    near = {path: name for path, name in by_path.items() if path.startswith(below)}
    by_file: dict[str, list[str]] = defaultdict(list)
    for path, name in near.items():
        for known_as in {key for file in (path, path.rpartition("/")[2]) for key in (file, PurePosixPath(file).stem)}:
            by_file[known_as.casefold()].append(name)
    assigned: dict[str, list[Row]] = {}

    def free(name: str, row: Row) -> bool:
        return name not in assigned or (row.is_section and assigned[name][0].is_section)

    waiting = []
    for row in rows:
        paths = [below + path for path in _paths_of(row.reference, root / below)] + _paths_of(row.reference, root)
        song = next((by_path[path] for path in paths if path in by_path), None)
        if song is not None and free(song, row):
            assigned.setdefault(song, []).append(row)
        else:
            waiting.append((row, song is not None))
    for row, twice in waiting:
        left = [name for name in by_file[_file_name_of(row.reference).casefold()] if free(name, row)]
        if len(left) == 1 and not twice:
            assigned.setdefault(left[0], []).append(row)
        else:
            tell(row.where, f"Names {row.reference!r:.{QUOTED}}, which is not in the folder, or is not one song only, "
                            "or is named twice.")
    return assigned


def _paths_of(reference: str, root: Path) -> list[str]:
    """The names that a path could mean: itself, or the ends of an absolute one, that of a moved folder included."""
    if len(reference) > LONGEST_PATH:
        return []
    path = _comparable(reference)
    if not _is_absolute(reference):
        return [path.removeprefix("./")]
    parts = path.split("/")
    return [path.removeprefix(_comparable(str(root)) + "/"), *("/".join(parts[at:]) for at in range(1, len(parts) - 1))]


def _file_name_of(reference: str) -> str:
    """The name that an absolute path or a bare name ends in; a relative path means one place only."""
    folder, _, name = _comparable(reference).rpartition("/")
    return name if _is_absolute(reference) or folder in ("", ".") else _comparable(reference)


def _is_absolute(reference: str) -> bool:
    return PureWindowsPath(reference).is_absolute() or PurePosixPath(reference).is_absolute()


def _comparable(path: str) -> str:
    """Forward slashes and composed characters, as macOS decomposes what others write."""
    return unicodedata.normalize("NFC", path.replace("\\", "/"))
