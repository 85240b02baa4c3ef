"""Usage of a dataset's folder, verification of its files, and removal of those that are not needed.

Files are recognised by their names, which only this package gives, directly in the folder; links and everything else
are never read, counted or removed.  Not for a folder that a training is working in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import DatasetError
from ..io import locks, temp_files
from ..io.tensors import BadTensorFile
from ..progress import Progress, Report, ignore
from ..songs.song import Problem
from . import tensor_file
from .manifest import MANIFEST, Dataset, open_dataset

_CONDITION = ".condition.safetensors"
_OURS = re.compile(r"manifest\.json|silence-\d+(-imported)?\.safetensors"
                   r"|[0-9a-f]{16}\.(latents|condition|codes)\.safetensors")
_CHANNELS = 64
_CONDITION_KINDS = ("condition", "genre")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Files of ours in a dataset's folder, and those among them that no song needs."""

    files: int
    bytes: int
    orphans: int
    orphan_bytes: int


def usage(folder: Path) -> Usage:
    """Measure a dataset's folder, and what `clean` would remove.

    Nothing is an orphan while preprocessing is unfinished: it resumes from there.  DatasetError if the manifest cannot
    be read.
    """
    sizes = _sizes(folder)
    if MANIFEST not in sizes:
        return _count(sizes, [])
    return _count(sizes, _orphans(open_dataset(folder), sizes))


def clean(folder: Path) -> Usage:
    """Remove the orphans: files of songs, captions and lyrics that the dataset no longer has, and of other checkpoints.

    Returns the usage before.  DatasetError if there is no dataset, or a file cannot be removed; the others are removed
    all the same.
    """
    with locks.held(folder, "cleaned"):
        dataset, sizes = open_dataset(folder), _sizes(folder)
        orphans, kept = _orphans(dataset, sizes), []
        for name in orphans:
            try:
                (folder / name).unlink(missing_ok=True)
            except OSError as error:
                kept.append(f"{name} ({error.strerror})")
    if kept:
        raise DatasetError(f"{len(kept)} of {len(orphans)} files in {folder} cannot be removed: {', '.join(kept[:3])}. "
                           "Close what has them open, or make the folder writable, and clean it again.")
    return _count(sizes, orphans)


def verify(dataset: Dataset, *, report: Report = ignore) -> tuple[Problem, ...]:
    """Read every file of a dataset; return a problem, with advice, for each that is missing, damaged or unexpected.

    Damage shows in the checksum of each file; in those of earlier versions in shape and non-finite values.
    """
    checks = [*_checks(dataset), *_made_by_trainings(dataset)]
    problems: dict[Path, Problem] = {}
    width = 0
    for number, check in enumerate(checks):
        report(Progress(stage="preprocess", step=number, total=len(checks), message=f"Reading {check.path.name}"))
        try:
            values = tensor_file.read(check.path, check.kind, check.song)
        except DatasetError as error:
            problems.setdefault(check.path, Problem(name=check.song, reason=str(error)))
            continue
        if check.kind in _CONDITION_KINDS and values.ndim == 2:
            width = width or values.shape[1]
        if not check.fits(values, width):
            problems.setdefault(check.path, Problem(name=check.song, reason=(
                f"{check.path} holds {list(values.shape)} values, not {check.expected}. Delete it. "
                "Preprocess the songs again.")))
    return tuple(problems.values())


@dataclass(frozen=True, kw_only=True)
class _Check:
    """File to read, and its number of frames; a condition has any number of tokens."""

    song: str
    path: Path
    kind: tensor_file.Kind
    frames: int = 0

    @property
    def expected(self) -> str:
        return f"[{self.frames}, {_CHANNELS}]" if self.frames else "as many per token as the other conditions"

    def fits(self, values: Tensor, width: int) -> bool:
        """Return True if the values have the shape that the dataset needs."""
        if self.kind in _CONDITION_KINDS:
            return values.ndim == 2 and len(values) > 0 and values.shape[1] == width
        return values.shape == (self.frames, _CHANNELS)


def _checks(dataset: Dataset) -> Iterator[_Check]:
    """Checks of every file that preprocessing makes."""
    longest = max((sample.frames for sample in dataset.samples), default=0)
    yield _Check(song="silence", path=dataset.silence, kind="silence", frames=longest)
    for sample in dataset.samples:
        yield _Check(song=sample.name, path=dataset.latents(sample), kind="latents", frames=sample.frames)
        if sample.foreign_condition:
            kinds: tuple[tensor_file.Kind, ...] = ("condition", "genre") if sample.genre else ("condition",)
            for kind in kinds:
                yield _Check(song=sample.name, path=dataset.folder / sample.foreign_condition, kind=kind)
            continue
        for prompt in sample.prompts():
            yield _Check(song=sample.name, path=dataset.condition(prompt), kind="condition")


def _made_by_trainings(dataset: Dataset) -> Iterator[_Check]:
    """Checks of existing audio codes and conditions of crops; also of conditions without an owner."""
    for sample in dataset.samples:
        if dataset.codes(sample).is_file():
            yield _Check(song=sample.name, path=dataset.codes(sample), kind="codes", frames=sample.frames)
    owners = _owners(dataset)
    whole = _of_whole_songs(dataset)
    for name in _sizes(dataset.folder):
        path = dataset.folder / name
        if name.endswith(_CONDITION) and name not in whole:
            owner = _owner(path)
            if not owner or owner in owners:
                yield _Check(song=owners.get(owner, name), path=path, kind="condition")


def _orphans(dataset: Dataset, sizes: dict[str, int]) -> list[str]:
    needed = {MANIFEST, dataset.silence.name} | _of_whole_songs(dataset)
    for sample in dataset.samples:
        needed |= {sample.latents, dataset.codes(sample).name}
    owners = _owners(dataset)
    # A crop's condition is named by its length too, so the file itself holds its owner.  One without, because
    # an earlier version made it or it is damaged, counts as an orphan: a training that needs it makes it again.
    return [name for name in sizes if name not in needed
            and not (name.endswith(_CONDITION) and _owner(dataset.folder / name) in owners)]


def _of_whole_songs(dataset: Dataset) -> set[str]:
    """Names of the conditions that preprocessing makes, of whole songs."""
    made = {dataset.condition(prompt).name for sample in dataset.samples for prompt in sample.prompts()}
    return made | {sample.foreign_condition for sample in dataset.samples}


def _owners(dataset: Dataset) -> dict[str, str]:
    """Song of a condition of any length, by the owner stored in the file."""
    return {dataset.prompt_key(prompt): sample.name for sample in dataset.samples for prompt in sample.prompts()}


def _owner(condition: Path) -> str:
    try:
        return tensor_file.owner_of(condition)
    except (BadTensorFile, OSError):
        return ""


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file of ours, by name."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat(follow_symlinks=False).st_size for entry in sorted(entries, key=os.fspath)
                    if entry.is_file(follow_symlinks=False)
                    and (_OURS.fullmatch(entry.name) or temp_files.is_abandoned(Path(entry.path)))}
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read ({error.strerror}). Choose the folder of a dataset.") from error


def _count(sizes: dict[str, int], orphans: list[str]) -> Usage:
    return Usage(files=len(sizes), bytes=sum(sizes.values()), orphans=len(orphans),
                 orphan_bytes=sum(sizes[name] for name in orphans))
