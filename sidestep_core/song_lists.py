"""Lists of many songs: a dataset.json of Side-Step's or ACE-Step's, or a CSV table; and which row is which song's.

A dataset.json is {"metadata": {...}, "samples": [...]}, or the samples alone, with or without an object around them.
Paths in it are relative to it, or absolute, perhaps on another computer or of a folder that has moved since.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .errors import DatasetError
from .notes import QUOTED, Entry, Notes, Remarks, json_entries, merged, notes_from
from .sidecars import SidecarText, parse_json
from .text_files import read_text

NAME_KEY = "song"
"""Of a sample whose path is not its song's name, such as a section; no other program writes it."""
_MOST_SECONDS = 1_000_000
MOST_BYTES = 64_000_000
"""Of a list: tens of thousands of songs with their lyrics."""
_PATH_COLUMNS = ("file", "filename", "file_name", "path", "audio_path")


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

    def notes(self, remarks: Remarks) -> Notes:
        """What it says about the song.  Raises DatasetError where a value is not what its name says."""
        own = notes_from(self.entries, remarks)
        shared = notes_from(self.shared, remarks)
        # Where there is no trigger word, the place that all of them have says nothing of this song.
        if "tag" not in own and "tag" not in shared:
            shared.pop("tag_position", None)
        return merged(shared, own)

    @property
    def is_section(self) -> bool:
        return self.start > 0 or self.stop > 0


@dataclass(frozen=True, kw_only=True)
class DatasetList:
    """What a dataset.json holds."""

    rows: tuple[Row, ...] = ()
    genre_ratio: float = 0.0
    folder: str = ""
    """Where its songs' names begin, where that is not the folder that it is in."""


def read_dataset_json(path: Path) -> DatasetList:
    """The list; raises DatasetError where it is none."""
    content = parse_json(SidecarText(path.name, read_text(path, MOST_BYTES)))
    metadata = content.get("metadata") if isinstance(content, dict) else None
    metadata = metadata if isinstance(metadata, dict) else {}
    samples = content.get("samples") if isinstance(content, dict) else content
    if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
        raise DatasetError(f"{path.name} must hold a list of samples, or an object with such a list as \"samples\".")
    names = {"custom_tag": "custom_tag", "tag_position": "tag_position", "all_instrumental": "is_instrumental"}
    shared = [Entry(names[name], value, f"{path.name}: {name}") for name, value in metadata.items() if name in names]
    folder = metadata.get("folder")
    return DatasetList(
        rows=tuple(_sample(sample, shared, f"{path.name} sample {number}", path.name)
                   for number, sample in enumerate(samples, start=1)),
        genre_ratio=_number(metadata.get("genre_ratio"), 100, f"{path.name}: genre_ratio") / 100,
        folder=folder if isinstance(folder, str) else "",
    )


def _sample(sample: Mapping[str, Any], shared: Sequence[Entry], where: str, file: str) -> Row:
    reference = sample.get("audio_path") or sample.get("filename")
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
    """The rows of a CSV table, separated by commas, semicolons or tabs, with a header and a column of file names."""
    text = read_text(path, MOST_BYTES)
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
                yield Row(reference=reference, where=where, entries=json_entries(cells, where))
    except csv.Error as error:
        raise DatasetError(f"{path.name} line {reader.line_num} is not valid CSV: {error}. Correct it.") from error


def assign(rows: Iterable[Row], names: Iterable[str], root: Path,
           tell: Callable[[str, str], None]) -> dict[str, list[Row]]:
    """Each song's row, or those of its sections, by the song's name.

    `tell` is called with the place of each row whose song is not there, and the reason.
    Every row that names its song by path has its choice before those that are left to a mere file name.
    """
    by_path = {_comparable(name): name for name in names}
    by_file: dict[str, list[str]] = defaultdict(list)
    for comparable, name in by_path.items():
        by_file[comparable.rpartition("/")[2]].append(name)
    assigned: dict[str, list[Row]] = {}

    def free(name: str, row: Row) -> bool:
        return name not in assigned or (row.is_section and assigned[name][0].is_section)

    waiting = []
    for row in rows:
        song = next((by_path[path] for path in _paths_of(row.reference, root) if path in by_path), None)
        if song is not None and free(song, row):
            assigned.setdefault(song, []).append(row)
        else:
            waiting.append(row)
    for row in waiting:
        left = [name for name in by_file[_file_name_of(row.reference)] if free(name, row)]
        if len(left) == 1 and _paths_of(row.reference, root)[0] not in by_path:
            assigned.setdefault(left[0], []).append(row)
        else:
            tell(row.where, f"Names {row.reference!r:.{QUOTED}}, which is not in the folder, or is not one song only, "
                            "or is named twice.")
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
