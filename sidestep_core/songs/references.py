"""Songs that the rows of a list refer to, by paths that may be of another computer or of a folder that has moved."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..io.walk import MayRead
from .files import OnSkip, is_audio
from .lists import DatasetList, Row
from .metadata import QUOTED

LONGEST_PATH = 4096
"""Characters; no system has longer ones."""


def assign(rows: Iterable[Row], names: Iterable[str], root: Path, on_skip: OnSkip,
           below: str = "") -> dict[str, list[Row]]:
    """Assign each row, or the rows of its sections, to a song by name; the list lies `below` the root.

    `on_skip` gets the place of each row without a song, and the reason.  Rows with a path choose before those with a
    bare file name.
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
            on_skip(row.where, f"Names {row.reference!r:.{QUOTED}}, which is not in the folder, or is not one song "
                               "only, or is named twice.")
    return assigned


def _paths_of(reference: str, root: Path) -> list[str]:
    """Song names that a path could mean: itself, or the ends of an absolute one, for a folder that has moved."""
    if len(reference) > LONGEST_PATH:
        return []
    path = _comparable(reference)
    if not _is_absolute(reference):
        return [path.removeprefix("./")]
    parts = path.split("/")
    return [path.removeprefix(_comparable(str(root)) + "/"), *("/".join(parts[at:]) for at in range(1, len(parts) - 1))]


def _file_name_of(reference: str) -> str:
    """File name at the end of an absolute path or a bare name; a relative path means one place only."""
    folder, _, name = _comparable(reference).rpartition("/")
    return name if _is_absolute(reference) or folder in ("", ".") else _comparable(reference)


def _is_absolute(reference: str) -> bool:
    return PureWindowsPath(reference).is_absolute() or PurePosixPath(reference).is_absolute()


def _comparable(path: str) -> str:
    """Convert to forward slashes and composed characters, as macOS decomposes them."""
    return unicodedata.normalize("NFC", path.replace("\\", "/"))


def resolve(reference: str, folder: Path, may_read: MayRead) -> Path | None:
    """Audio file that a list in `folder` refers to; None if it is not there or may not be read."""
    for spelled in (reference, reference.replace("\\", "/")):
        path = Path(os.path.normpath(folder / spelled))
        # A reference may be longer than any name can be.
        with contextlib.suppress(OSError):
            if is_audio(path.name) and may_read(path) and path.is_file():
                return path
    return None


def folder_of(listed: DatasetList, file: Path, may_read: MayRead) -> Path:
    """Folder to which the names of the songs in a dataset.json are relative."""
    named = Path(listed.folder or ".")
    # It may be longer than any path can be.
    with contextlib.suppress(OSError):
        if named.is_absolute() and may_read(named) and named.is_dir():
            return named
    return file.parent
