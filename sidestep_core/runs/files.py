"""Names of the files in a run's folder, and the folders that are runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import InUse, SideStepError
from ..io import atomic, locks, temp_files

RUNS = "runs"
"""Folder of the runs beside their adapters, where a command made them."""
RUN = "run.json"
"""Identity of the run."""
RECORD = "summary.json"
"""Course of the run, for people; see record.py."""
METRICS = "metrics.jsonl"
FINISHED = "finished.json"
WORKFLOW = "workflow.json"
NOTE = "note.txt"
SONGS = "songs.json"
"""Songs of the run, for people; see songs.py."""
BY_HEART = "by_heart.json"
"""Songs that are learned by heart; see by_heart.py."""
INFLUENCE = "influence.json"
"""Influence of the songs on the held-out loss; see influence.py."""
PREVIEWS = "previews"
CHECKPOINT = re.compile(r"checkpoint-step-(\d{1,12})")
PREVIEW = re.compile(r"step-(\d{1,12})\.flac")
PREVIEW_FAILED = re.compile(r"step-(\d{1,12})\.failed\.txt")
VOTES = "votes.json"
"""Blind votes for the previews, in their folder."""
MARKS = (RUN, RECORD, METRICS, FINISHED)
"""Files of which each run has at least one, however damaged."""


class NoRun(SideStepError):
    """There is no run of this id."""


def run_folders(root: Path) -> dict[str, Path]:
    """Map the ids of all runs below `root` to their folders: direct children only, and no links."""
    try:
        with os.scandir(root) as entries:
            names = [entry.name for entry in entries
                     if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return {}
    folders, real_root = {name: root / name for name in names}, root.resolve()
    # A junction of Windows looks like a folder, and leads elsewhere.
    return {name: folder for name, folder in folders.items()
            if any((folder / mark).is_file() for mark in MARKS) and folder.resolve() == real_root / name}


def run_folder(root: Path, run: str) -> Path:
    """Look up the folder of the run with this id; NoRun if there is none.  An id is never joined to a path."""
    folder = run_folders(root).get(run)
    if folder is None:
        raise NoRun("This run is gone.")
    return folder


def delete(root: Path, run: str) -> None:
    """Delete a run's folder, whole or not at all.  InUse while it is being trained, here or by another process.

    The adapters that it published lie elsewhere and stay.
    """
    folder = run_folder(root, run)
    with locks.held(folder, "deleted"):
        pass  # only to learn that nobody holds it; on Windows a folder with an open file cannot be renamed
    try:
        temp_files.sweep(root)
        atomic.remove_folder(folder)
    except OSError as error:
        raise InUse(f"{run} cannot be deleted ({error.strerror or error}). Close the programs that use its files, and "
                    "try again.") from error
