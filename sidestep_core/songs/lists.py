"""Metadata in lists of many songs: a dataset.json of Side-Step or ACE-Step, JSON lines, or a CSV table.

A dataset.json is {"metadata": {...}, "samples": [...]}, or the samples alone, with or without an object around them, or
an object of file names.  references.py finds the song of each row.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DatasetError
from ..io.text import read_text
from ..io.walk import MAX_ENTRIES, Tick
from .metadata import QUOTED, Entry, Remarks, SongMetadata, Source, field_of, json_entries, merge, parse_entries
from .sidecars import SidecarText, parse_json

NAME_KEY = "song"
"""Key of our own for the name of a song whose path is not its name, such as a section."""
_MAX_SECONDS = 1_000_000
_PATH_NAMES = ("audio_path", "file", "filename", "file_name", "path", "audio", "audio_file", "audio_filepath", "song")
"""Names of the path of a song, in lower case."""
_METADATA = {"custom_tag": "custom_tag", "tag_position": "tag_position", "all_instrumental": "is_instrumental"}
"""Metadata of a list that holds for all of its songs -> its name in a song."""
_OTHER_METADATA = {"name", "created_at", "num_samples", "genre_ratio", "folder"}
_SEPARATOR = re.compile(r"sep=(.)\n", re.IGNORECASE)
"""First line of a table that names its separator, as Excel writes it."""
LARGEST_LIST = 1 << 26
"""Bytes."""
MAX_ROWS, MAX_COLUMNS = MAX_ENTRIES, 1000
LIST_ENDINGS = (".csv", ".json", ".jsonl", ".tsv")
TEXT_ENDINGS = frozenset({*LIST_ENDINGS, ".txt", ".caption", ".lyrics", ".lrc"})
"""Endings of files with captions, lyrics and other metadata."""
DATASET_FILE = "dataset.json"
LIST_FILES = ("key_bpm.csv", "metadata.csv", "metadata.jsonl", DATASET_FILE)
"""Lists in the folder itself, from the weakest to the strongest; lists of other names are weaker."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Metadata of one song, or of a section of one, which a path refers to."""

    reference: str
    where: str
    entries: Sequence[Entry]
    shared: Sequence[Entry] = ()
    """Metadata of all songs of the list."""
    name: str = ""
    """Name of the song, where its path is not it."""
    start: float = 0.0
    stop: float = 0.0

    def metadata(self, remarks: Remarks) -> SongMetadata:
        """Parse the song's metadata.  Raises DatasetError where a value is invalid."""
        own = parse_entries(self.entries, remarks)
        shared = parse_entries(self.shared, remarks)
        # Without a trigger word, the position that all songs share does not concern this one.
        if "trigger_word" not in own and "trigger_word" not in shared:
            shared.pop("trigger_position", None)
        return merge([Source(self.where, shared), Source(self.where, own)])

    @property
    def is_section(self) -> bool:
        return self.start > 0 or self.stop > 0


def list_conflicts(lists: Sequence[Source]) -> Iterator[str]:
    """Yield a sentence for each field in which a list, from the weakest on, contradicts those before it."""
    for number, source in enumerate(lists):
        before: Mapping[str, object] = {**merge(lists[:number])}
        for field, value in source.metadata.items():
            if before.get(field, value) != value:
                yield (f"{source.where} says {value!r:.{QUOTED}}, which counts; another list says "
                       f"{before[field]!r:.{QUOTED}}. Correct one of them.")


@dataclass(frozen=True, kw_only=True)
class DatasetList:
    """Content of a list."""

    rows: tuple[Row, ...] = ()
    genre_ratio: float = 0.0
    folder: str = ""
    """Folder of the songs' names, unless it is that of the list."""
    unknown: tuple[Entry, ...] = ()
    """Values under unknown names."""


def read_lists(folder: Path, files: Sequence[str], tick: Tick) -> tuple[dict[str, DatasetList], dict[str, str]]:
    """Read the lists among files of a folder, from the weakest to the strongest, and why others are not read.

    Raises DatasetError where one of LIST_FILES cannot be read.
    """
    named = [name for name in LIST_FILES if name in files]
    lists: dict[str, DatasetList] = {}
    reasons: dict[str, str] = {}
    for name in files:
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
    return lists | {name: read_list(folder / name) for name in named}, reasons


def read_list(path: Path) -> DatasetList:
    """Read a list from a file with one of LIST_ENDINGS; raises DatasetError where it is not one."""
    match path.suffix.lower():
        case ".json":
            return read_dataset_json(path)
        case ".jsonl":
            return DatasetList(rows=_bounded(_json_lines(path), path.name))
        case _:
            return DatasetList(rows=_bounded(table_rows(path), path.name))


def _bounded(rows: Iterable[Row], file: str) -> tuple[Row, ...]:
    """Collect the rows; DatasetError beyond MAX_ROWS, as each takes a kilobyte of memory."""
    found = tuple(itertools.islice(rows, MAX_ROWS + 1))
    if len(found) > MAX_ROWS:
        raise DatasetError(f"{file} lists more than {MAX_ROWS} songs. Divide it.")
    return found


def read_dataset_json(path: Path) -> DatasetList:
    """Read a dataset.json; raises DatasetError where it is not one."""
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
    """Samples of a list in any of its forms; None where it has none of them."""
    if isinstance(content, dict) and "samples" not in content:
        lists = [value for value in content.values() if isinstance(value, list) and value]
        if content and all(PurePosixPath(name).suffix and isinstance(value, (str, dict))
                           for name, value in content.items()):
            content = [{_PATH_NAMES[0]: name, **(value if isinstance(value, dict) else {"caption": value})}
                       for name, value in content.items()]
        elif len(lists) == 1:
            content = lists[0]
    samples = content.get("samples") if isinstance(content, dict) else content
    if isinstance(samples, list) and all(isinstance(sample, dict) for sample in samples):
        return samples
    return None


def _json_lines(path: Path) -> Iterator[Row]:
    """Yield a row for the JSON object on each line."""
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
    start, stop = (_number(sample.get(name), _MAX_SECONDS, f"{where}: {name}") for name in ("start", "stop"))
    name = sample.get(NAME_KEY)
    return Row(reference=reference, where=where, entries=json_entries(sample, where), shared=shared, start=start,
               stop=stop, name=name if isinstance(name, str) and name.strip() else "")


def _number(value: object, most: float, where: str) -> float:
    """Check a number from 0 to `most`; None is 0."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise DatasetError(f"{where} must be a number from 0 to {most:,}, got {value!r:.{QUOTED}}.")
    return float(value)


def table_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a table, separated by commas, semicolons, tabs or bars, with a column of file names."""
    text = read_text(path, LARGEST_LIST)
    separator = _SEPARATOR.match(text)
    text = text[separator.end():] if separator else text
    delimiter = separator[1] if separator else _delimiter(text.partition("\n")[0])
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        names = reader.fieldnames or ()
        if len(names) > MAX_COLUMNS:
            raise DatasetError(f"{path.name} has {len(names)} columns; at most {MAX_COLUMNS} are read.")
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
    """Guess the separator: the one that makes a cell the path of a song, or else the most frequent."""
    by_count = sorted(",;\t|", key=header.count, reverse=True)
    return next((sign for sign in by_count
                 if any(cell.strip().strip('"').lower() in _PATH_NAMES for cell in header.split(sign))), by_count[0])
