"""Previews of a run, on the disk.

    previews/step-000050.flac        audio after step 50
    previews/step-000050.failed.txt  reason why there is none
    previews/votes.json              number of blind votes for each step
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from re import Pattern

from ..io import atomic, strict_json
from . import files

FAILED_NAME = "step-{:06d}.failed.txt"
MAX_REASON = 1000
MAX_VOTES = 1_000_000
_voting = threading.Lock()


def made(run: Path) -> tuple[int, ...]:
    """Steps that have a preview, in their order."""
    return tuple(sorted(_found(run, files.PREVIEW)))


def file(run: Path, step: int) -> Path | None:
    """Audio file of the preview after `step`, or None."""
    path = _found(run, files.PREVIEW).get(step)
    return None if path is None or path.is_symlink() else path


def failed(run: Path) -> tuple[tuple[int, str], ...]:
    """Steps whose preview failed, each with the reason, in their order; without those that have one by now."""
    there = _found(run, files.PREVIEW)
    return tuple((step, _reason(path)) for step, path in sorted(_found(run, files.PREVIEW_FAILED).items())
                 if step not in there)


def note_failure(run: Path, step: int, reason: str) -> None:
    """Keep the reason why there is no preview after `step`; OSError if that cannot be written."""
    atomic.write_text(run / files.PREVIEWS / FAILED_NAME.format(step), reason[:MAX_REASON])


def votes(run: Path) -> Mapping[int, int]:
    """Number of blind votes for each step that has any.  BadJson if the file is damaged."""
    path = run / files.PREVIEWS / files.VOTES
    if not path.is_file():
        return {}
    content = strict_json.as_object(strict_json.read(path), files.VOTES)
    return {int(step): count for step, count in content.items() if step.isascii() and step.isdigit()
            and isinstance(count, int) and not isinstance(count, bool) and 0 < count <= MAX_VOTES}


def vote(run: Path, step: int) -> None:
    """Add a blind vote for the preview after `step`.  NoRun if there is none."""
    if file(run, step) is None:
        raise files.NoRun("This preview is gone.")
    with _voting:
        known = votes(run)
        counted = {**known, step: min(MAX_VOTES, known.get(step, 0) + 1)}
        atomic.write_json(run / files.PREVIEWS / files.VOTES, {str(each): count for each, count in counted.items()})


def _found(run: Path, pattern: Pattern[str]) -> dict[int, Path]:
    folder = run / files.PREVIEWS
    try:
        names = os.listdir(folder)  # noqa: PTH208 (half the time of iterdir)
    except OSError:
        return {}
    return {int(match[1]): folder / name for name in names if (match := pattern.fullmatch(name))}


def _reason(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            return opened.read(4 * MAX_REASON).decode("utf-8", "replace")[:MAX_REASON]
    except OSError as error:
        return f"The reason cannot be read: {error.strerror or error}."
