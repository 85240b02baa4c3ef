"""Maintenance of a dataset's folder: nothing needed is removed, nothing foreign is touched, no damage is missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from sidestep_core.dataset import tensor_file
from sidestep_core.dataset.maintenance import Usage, clean, usage, verify
from sidestep_core.dataset.manifest import MANIFEST, Dataset, open_dataset, write_manifest
from sidestep_core.errors import DatasetError
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Cancelled, Progress
from sidestep_core.training.data import load_samples
from tests.tiny import write_dataset
from tests.training import settled

SHORT = "0123456789abcdef"
STALE = (f"{SHORT}.latents.safetensors", f"{SHORT}.condition.safetensors", f"{SHORT}.codes.safetensors",
         "silence-99999.safetensors")  # fmt: skip
FOREIGN = ("notes.txt", "song.latents.safetensors.bak", "0.latents.safetensors", "silence.safetensors",
           f"{SHORT}.safetensors", f"{SHORT.upper()}.latents.safetensors", "manifest.json.bak", ".hidden",
           "best.adapter.safetensors")  # fmt: skip


@pytest.fixture
def dataset(checkpoint: Checkpoint, tmp_path: Path) -> Dataset:
    """Three songs with genres, conditions for windows, and codes; latents named as preprocessing names them."""
    made = write_dataset(tmp_path / "dataset", checkpoint, (40, 51, 60), windows=(30,), genre="jazz", codes=True)
    return renamed(made)


def renamed(made: Dataset) -> Dataset:
    named = []
    for number, sample in enumerate(made.samples):
        new = replace(sample, latents=f"{number:016x}.latents.safetensors")
        made.latents(sample).rename(made.latents(new))
        made.codes(sample).rename(made.codes(new))
        named.append(new)
    dataset = replace(made, samples=tuple(named))
    write_manifest(dataset)
    return dataset


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def put(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).write_bytes(b"x" * 100)


# Usage and cleaning


def test_whole_dataset_is_needed(dataset: Dataset) -> None:
    """Three latents, three codes, two prompts each at two lengths, the silence, the manifest."""
    before = names(dataset.folder)
    found = usage(dataset.folder)
    size = sum(path.stat().st_size for path in dataset.folder.iterdir())
    assert found == Usage(files=3 + 3 + 12 + 2, bytes=size, orphans=0, orphan_bytes=0)
    assert clean(dataset.folder) == found
    assert names(dataset.folder) == before


def test_only_orphans_are_removed(dataset: Dataset) -> None:
    needed = names(dataset.folder)
    put(dataset.folder, *STALE, *FOREIGN)
    (dataset.folder / "runs").mkdir()
    put(dataset.folder / "runs", *STALE)
    found = usage(dataset.folder)
    assert (found.files, found.orphans, found.orphan_bytes) == (len(needed) + len(STALE), len(STALE), 100 * len(STALE))
    assert clean(dataset.folder) == found
    assert names(dataset.folder) == needed | set(FOREIGN) | {"runs"}
    assert names(dataset.folder / "runs") == set(STALE)
    assert usage(dataset.folder).orphans == 0
    assert verify(dataset) == ()


def test_removed_songs_leave_nothing(dataset: Dataset) -> None:
    """Its latents, codes and conditions at every length; those of the others stay, and training reads them."""
    left = replace(dataset, samples=dataset.samples[:2])
    write_manifest(left)
    tensor_file.write(left.silence, "silence", tensor_file.read(dataset.silence, "silence", "")[:51])
    assert clean(dataset.folder).orphans == 1 + 1 + 4 + 1
    config = settled(chunk_duration=1.2, genre_ratio=0.5, context_mode="codes")
    assert len(load_samples(left, config)[0]) == 2


def test_outdated_conditions_are_removed(dataset: Dataset) -> None:
    reworded = replace(dataset.samples[0], caption="other words")
    for other in (replace(dataset, samples=(reworded, *dataset.samples[1:])), replace(dataset, checkpoint="other"),
                  replace(dataset, style="official")):
        write_manifest(other)
        expected = 2 if other.samples[0] == reworded else 12
        assert usage(dataset.folder).orphans == expected


def test_ownerless_crop_conditions_are_orphans(dataset: Dataset) -> None:
    path = dataset.condition(dataset.samples[0].prompt(30))
    write_tensors(path, read_tensors(path))
    assert verify(dataset) == ()
    assert clean(dataset.folder).orphans == 1
    assert not path.is_file()


def test_a_foreign_condition_is_needed(dataset: Dataset) -> None:
    both = {"condition": torch.ones(3, 64), "genre": torch.ones(2, 64)}
    write_tensors(dataset.folder / f"{SHORT}.condition.safetensors", both)
    assert usage(dataset.folder).orphans == 1
    foreign = replace(dataset.samples[0], foreign_condition=f"{SHORT}.condition.safetensors")
    write_manifest(replace(dataset, samples=(foreign, *dataset.samples[1:])))
    clean(dataset.folder)
    assert (dataset.folder / foreign.foreign_condition).is_file()
    assert verify(open_dataset(dataset.folder)) == ()
    write_tensors(dataset.folder / f"{SHORT}.condition.safetensors", both | {"genre": torch.ones(2, 63)})
    assert "holds [2, 63] values" in verify(open_dataset(dataset.folder))[0].reason


def test_links_are_left_alone(dataset: Dataset, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    put(outside, *STALE)
    for name, target in zip(STALE, (outside / STALE[0], outside, tmp_path / "nowhere"), strict=False):
        (dataset.folder / name).symlink_to(target)
    before = names(dataset.folder)
    assert clean(dataset.folder).orphans == 0
    assert names(dataset.folder) == before
    assert names(outside) == set(STALE)


def test_unfinished_preprocessing_has_no_orphans(tmp_path: Path) -> None:
    put(tmp_path, *STALE)
    assert usage(tmp_path) == Usage(files=len(STALE), bytes=100 * len(STALE), orphans=0, orphan_bytes=0)
    with pytest.raises(DatasetError, match="holds no dataset"):
        clean(tmp_path)
    assert names(tmp_path) == set(STALE)


def test_damaged_manifest_has_no_orphans(dataset: Dataset) -> None:
    (dataset.folder / MANIFEST).write_text("{", encoding="utf-8")
    before = names(dataset.folder)
    for look in (usage, clean):
        with pytest.raises(DatasetError, match="is damaged"):
            look(dataset.folder)
    assert names(dataset.folder) == before


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        usage(tmp_path / "nowhere")


def test_undeletable_files_are_named(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    put(dataset.folder, *STALE)
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == STALE[0]:
            raise PermissionError(13, "In use")
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(DatasetError, match=rf"1 of {len(STALE)} files.*{STALE[0]} \(In use\)"):
        clean(dataset.folder)
    assert names(dataset.folder) & set(STALE) == {STALE[0]}


# Verifying


def test_sound_dataset_has_no_problems(dataset: Dataset) -> None:
    reports: list[Progress] = []
    assert verify(dataset, report=reports.append) == ()
    read = {progress.message.removeprefix("Reading ") for progress in reports}
    assert read == names(dataset.folder) - {MANIFEST}
    assert all(0 <= progress.step < progress.total for progress in reports)


def rewrite(path: Path, values: torch.Tensor) -> None:
    kind = next(kind for kind in get_args(tensor_file.Kind) if kind in path.name)
    tensor_file.write(path, kind, values, tensor_file.owner_of(path))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "is missing from the dataset"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged"),
    "flipped": (flipped, "not those that were written"),
    "not finite": (lambda path: rewrite(path, torch.full((51, 64), float("nan"))), "not finite"),
    "other shape": (lambda path: rewrite(path, torch.ones(17, 3)), "holds [17, 3] values, not"),
    "flat": (lambda path: rewrite(path, torch.ones(64)), "holds [64] values, not"),
    "other kind": (lambda path: write_tensors(path, {"other": torch.ones(51, 64)}), "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", ["latents", "condition", "genre", "window", "codes", "silence"])
def test_every_damage_is_found(dataset: Dataset, part: str, damage: str) -> None:
    song = dataset.samples[1]
    path = {"latents": dataset.latents(song), "condition": dataset.condition(song.prompt()),
            "genre": dataset.condition(song.prompt(genre=True)), "window": dataset.condition(song.prompt(30)),
            "codes": dataset.codes(song), "silence": dataset.silence}[part]
    change, reason = DAMAGES[damage]
    change(path)
    found = verify(dataset)
    if part in ("window", "codes") and damage == "missing":
        assert found == ()
        return
    assert len(found) == 1
    nameless = part == "window" and damage in ("cut off", "other kind")
    assert found[0].name == ("silence" if part == "silence" else path.name if nameless else song.name)
    assert reason in found[0].reason
    assert str(path) in found[0].reason
    assert "Preprocess the songs again" in found[0].reason


def test_verifying_can_be_stopped(dataset: Dataset) -> None:
    def cancel(progress: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        verify(dataset, report=cancel)
