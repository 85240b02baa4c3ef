"""Find the .pt files in a folder that another trainer encoded: all of them, or those that its manifest lists."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

from ..errors import DatasetError
from ..io import strict_json, walk
from ..songs.files import printable
from ..songs.song import Problem
from .manifest import MANIFEST


def listed(folder: Path) -> tuple[list[Path], list[Problem]]:
    """List the files to import, and the problems: files of the manifest, or every .pt file if it cannot be read.

    Links out of the folder are not followed.  DatasetError if there is no file, or more than a folder may hold.
    """
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}. Choose the folder of the .pt files.")
    entries, problems = _entries(folder)
    files = []
    for entry in dict.fromkeys(entries):
        if entry != printable(entry):
            problems.append(Problem(name=printable(entry), reason="has a name that is not valid Unicode. Rename it"))
            continue
        path = _inside(folder, entry)
        if path is None:
            problems.append(Problem(name=entry, reason=f"is listed in {MANIFEST} but is not in the folder"))
        elif path.name.endswith(".tmp.pt"):
            problems.append(Problem(name=entry, reason="is half of a song: its preprocessing was interrupted. Finish "
                                                       "it there, or preprocess the songs themselves"))
        else:
            files.append(path)
    if not entries:
        raise DatasetError(f"{folder} holds no .pt files. Choose the folder that Side-Step's preprocessing wrote.")
    return list(dict.fromkeys(files)), problems


def _entries(folder: Path) -> tuple[list[str], list[Problem]]:
    problems: list[Problem] = []

    def leave_out(path: Path, reason: str) -> None:
        if path.suffix == ".pt":
            problems.append(Problem(name=printable(path.name), reason=reason))

    _, names = next(walk.walk(folder, leave_out), (folder, []))
    found = [name for name in names if name.endswith(".pt")]
    if MANIFEST not in names:
        return found, problems
    try:
        manifest = strict_json.loads(strict_json.read_bytes(folder / MANIFEST), MANIFEST, unicode=False)
    except strict_json.BadJson as error:
        return found, [*problems, _unused(f"cannot be read ({error})")]
    if isinstance(manifest, dict) and "format" in manifest:
        raise DatasetError(f"{folder} is a preprocessed dataset already. Choose it as it is.")
    samples = manifest.get("samples") if isinstance(manifest, dict) else manifest
    if not isinstance(samples, list) or not samples or not all(isinstance(entry, str) for entry in samples):
        return found, [*problems, _unused("has no list of samples")]
    if len(samples) > walk.MAX_ENTRIES:
        return found, [*problems, _unused(f"lists {len(samples)} samples, more than {walk.MAX_ENTRIES}")]
    return samples, []


def _unused(reason: str) -> Problem:
    return Problem(name=MANIFEST, reason=f"{reason}; every .pt file is taken instead")


def _inside(folder: Path, entry: str) -> Path | None:
    """Resolve an entry of the manifest to a file, never one outside the folder.

    A path from elsewhere, such as of the computer that made the folder, means the file of that name.
    """
    for candidate in (entry.replace("\\", "/"), PureWindowsPath(entry).name):
        try:
            # By its name first: nothing outside is even looked at, and on Windows no other computer is asked.
            inside = Path(os.path.normpath(folder / candidate)).is_relative_to(os.path.normpath(folder))
            path = (folder / candidate).resolve() if inside else Path()
            if inside and path.is_relative_to(folder.resolve()) and path.is_file():
                return folder / path.relative_to(folder.resolve())
        except (ValueError, OSError):
            # No path at all on this system.
            continue
    return None
