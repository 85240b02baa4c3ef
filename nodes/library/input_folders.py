"""Song folders that the page may open: those of ComfyUI's input folder, by their name."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path, PurePath

import folder_paths

from ...sidestep_core.errors import DatasetError
from ...sidestep_core.io import walk
from ...sidestep_core.songs.files import EXTENSIONS
from ...sidestep_core.songs.scan import find_songs
from ...sidestep_core.songs.song import SongFolder
from ..host import folders, readable_folders
from ..routes import song_previews

MAX_LISTED = 500
MAX_COUNTED = 5000
"""Files of a folder that are looked at to count its songs."""


@dataclass(frozen=True, kw_only=True)
class InputFolder:
    """Folder of ComfyUI's input folder with songs."""

    name: str
    songs: int
    changed: float
    """Seconds since 1970."""


def listed() -> list[InputFolder]:
    """List the folders with songs, the latest first.  Links, hidden folders and single files are left out."""
    root = Path(folder_paths.get_input_directory())
    below = [path for path in root.iterdir() if not path.name.startswith(".") and not path.is_symlink()
             and path.is_dir()] if root.is_dir() else []
    found = [InputFolder(name=path.name, songs=count, changed=path.stat().st_mtime)
             for path in below if (count := _count(path))]
    return sorted(found, key=lambda folder: -folder.changed)[:MAX_LISTED]


def scan(name: str) -> SongFolder:
    """Read the songs of a listed folder.  DatasetError where it is not one, or has no song."""
    # Looked up, never joined: the name comes from the page.
    if name not in {folder.name for folder in listed()}:
        raise DatasetError(f"There is no folder {name!r} with songs in ComfyUI's input folder.")
    folder = folders.given_folder(name)
    found = find_songs(folder, may_read=readable_folders.may_read)
    song_previews.remember(found, folder)
    return found


def _count(folder: Path) -> int:
    """Number of songs among the first files of a folder."""
    try:
        names = (name for _, files in walk.walk(folder, hidden=False) for name in files)
        return sum(PurePath(name).suffix.lower() in EXTENSIONS for name in itertools.islice(names, MAX_COUNTED))
    except DatasetError:
        return 0  # far too many files to be a folder of songs
