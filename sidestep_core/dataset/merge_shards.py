"""Merge of the shards of a dataset: the same files, to the byte, as preprocessing all songs on one machine."""

from __future__ import annotations

import contextlib
import filecmp
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import DatasetError
from ..io import atomic, locks, temp_files
from ..progress import Progress, Report, ignore
from . import maintenance
from .manifest import MANIFEST, Dataset, open_dataset, write_manifest
from .shard import Shard

PROBLEMS_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The whole dataset, and what became of its songs."""

    dataset: Dataset
    left_out: tuple[str, ...]
    """Songs that no shard could use."""
    rounded: int
    """Number of texts that two shards encoded differently, by the rounding of their devices."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A dataset that is a shard."""

    dataset: Dataset
    shard: Shard

    def __str__(self) -> str:
        return f"{self.dataset.folder} ({self.shard})"


def merge_shards(folders: Sequence[Path], target: Path, *, report: Report = ignore) -> Merged:
    """Check the shards of a dataset, and write the whole dataset into the new folder `target`, at once or not at all.

    Any order of the shards gives the same files.  If `target` holds the result already, it stays.  DatasetError if
    the shards do not fit together, one is missing, a file is damaged, or `target` holds anything else.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise DatasetError("A folder is given twice. Give each shard once.")
    with contextlib.ExitStack() as stack:
        for folder in folders:
            if folder.is_dir():
                stack.enter_context(locks.held(folder, "merged"))
        parts = sorted((_opened(folder) for folder in folders), key=lambda part: part.shard.number)
        _require_fit(parts)
        merged = _joined(parts, target)
        rounded = 0
        if not _is_there(merged):
            for number, part in enumerate(parts):
                _require_whole(part, number, len(parts), report)
            files, rounded = _files(parts, merged)
            _write(merged, files, report)
    left_out = {name for part in parts for name in part.shard.left_out}
    return Merged(dataset=merged, left_out=tuple(name for name, _ in parts[0].shard.songs if name in left_out),
                  rounded=rounded)


def _opened(folder: Path) -> _Part:
    dataset = open_dataset(folder)
    if dataset.shard is None:
        raise DatasetError(f"{folder} is a whole dataset, no shard: it can be trained on as it is.")
    return _Part(dataset=dataset, shard=dataset.shard)


def _require_fit(parts: Sequence[_Part]) -> None:
    """Raise DatasetError unless these are all shards of one dataset, each once, with every song of its share."""
    first = parts[0]
    for part in parts[1:]:
        for problem in _differences(first, part):
            raise DatasetError(f"{first} and {part} do not fit together: {problem}")
    for before, part in zip(parts, parts[1:], strict=False):
        if before.shard.number == part.shard.number:
            raise DatasetError(f"{before.dataset.folder} and {part.dataset.folder} are both {part.shard}. Give each "
                               "shard once.")
    there = {part.shard.number for part in parts}
    if missing := [str(number) for number in range(1, first.shard.of + 1) if number not in there]:
        raise DatasetError(f"Of {first.shard.of} shards, {', '.join(missing)} is missing. Give the folders of all.")
    for part in parts:
        known = {sample.name for sample in part.dataset.samples} | set(part.shard.left_out)
        if wrong := sorted(known ^ part.shard.share()):
            raise DatasetError(f"{part} {'lacks' if wrong[0] not in known else 'should not have'} {wrong[0]!r}: its "
                               f"{MANIFEST} was changed. Preprocess the songs again, with this shard.")


def _differences(first: _Part, other: _Part) -> Iterator[str]:
    """Sentences about what two shards of one dataset have in common, and these do not."""
    one, two = first.shard, other.shard
    if one.of != two.of:
        yield "their numbers of shards differ. Preprocess all shards with the same number."
    if first.dataset.checkpoint != other.dataset.checkpoint:
        yield ("they were encoded by different models: the model, its text encoder or its VAE. Use the same files on "
               "all machines.")
    settings = {**one.settings, "genre_ratio": first.dataset.genre_ratio}
    others = {**two.settings, "genre_ratio": other.dataset.genre_ratio}
    for name in sorted(settings.keys() | others.keys()):
        if settings.get(name) != others.get(name):
            yield f"{name} is {settings.get(name)!r} in one and {others.get(name)!r} in the other."
    songs, other_songs = dict(one.songs), dict(two.songs)
    if only := sorted(songs.keys() ^ other_songs.keys()):
        yield (f"{only[0]!r} is in the song list of {'one' if only[0] in songs else 'the other'} only. Copy the same "
               "songs to all machines.")
    for name, content in songs.items():
        if other_songs.get(name, content) != content:
            yield (f"{name!r} has another size, section, caption or other text in each. Copy the same songs and texts "
                   "to all machines.")
    if one.songs != two.songs:
        yield "their song lists have another order. Use the same list on all machines."


def _joined(parts: Sequence[_Part], target: Path) -> Dataset:
    """The whole dataset, with the songs in the order of the list."""
    samples = {sample.name: sample for part in parts for sample in part.dataset.samples}
    if not samples:
        raise DatasetError("No shard could use any of its songs. Preprocess the songs again to see the reasons.")
    return replace(parts[0].dataset, folder=target, shard=None,
                   samples=tuple(samples[name] for name, _ in parts[0].shard.songs if name in samples))


def _is_there(merged: Dataset) -> bool:
    """Return True for a finished merge.  DatasetError if its folder holds anything else."""
    folder = merged.folder
    if not folder.exists():
        return False
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        return False
    if (folder / MANIFEST).is_file() and open_dataset(folder) == merged and merged.is_whole():
        return True
    raise DatasetError(f"{folder} holds something else. Give a new folder for the merged dataset.")


def _files(parts: Sequence[_Part], merged: Dataset) -> tuple[dict[str, Path], int]:
    """Files of the whole dataset by name; and the number of those that shards share, and that differ.

    The first shard's is taken of these: songs with the same words share the file of their text.
    """
    files: dict[str, Path] = {}
    differ = set()
    for part in parts:
        for path in _own_files(part.dataset):
            before = files.setdefault(path.name, path)
            if before != path and not filecmp.cmp(before, path, shallow=False):
                differ.add(path.name)
    longest = max(parts, key=lambda part: max(
        (sample.frames for sample in part.dataset.samples), default=0))
    files[merged.silence.name] = longest.dataset.silence
    return files, len(differ)


def _own_files(dataset: Dataset) -> Iterator[Path]:
    for sample in dataset.samples:
        yield dataset.latents(sample)
        yield from dataset.conditions(sample)


def _require_whole(part: _Part, number: int, parts: int, report: Report) -> None:
    """Read every file of a shard.  DatasetError for those that are missing or damaged."""
    def reading(progress: Progress) -> None:
        step = number * progress.total + progress.step
        report(replace(progress, step=step, total=parts * progress.total))

    if not part.dataset.samples:
        return
    if problems := maintenance.verify(part.dataset, report=reading):
        reasons = " ".join(problem.reason for problem in problems[:PROBLEMS_SHOWN])
        raise DatasetError(f"{part} has {len(problems)} missing or damaged files. {reasons}")


def _write(merged: Dataset, files: dict[str, Path], report: Report) -> None:
    """Copy the files, and write the manifest; the folder appears when it is complete."""
    target = merged.folder
    atomic.require_writable(target.parent)
    temp_files.sweep(target.parent)
    with atomic.atomic_folder(target) as folder:
        for number, (name, source) in enumerate(files.items()):
            report(Progress(stage="preprocess", step=number, total=len(files), message=f"Copying {name}"))
            atomic.copy(source, folder / name)
        write_manifest(replace(merged, folder=folder))
