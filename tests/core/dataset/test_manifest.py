"""A dataset on disk: its handle, names and manifest."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sidestep_core.dataset.manifest import MANIFEST, Dataset, open_dataset, write_manifest
from sidestep_core.errors import DatasetError
from sidestep_core.io import atomic, strict_json
from sidestep_core.model.checkpoint import Checkpoint
from tests.tiny import write_dataset


@pytest.fixture
def dataset(checkpoint: Checkpoint, tmp_path: Path) -> Dataset:
    return write_dataset(tmp_path / "dataset", checkpoint, (40, 51, 40))


def test_manifest_round_trip(dataset: Dataset) -> None:
    assert open_dataset(dataset.folder) == dataset
    assert dataset.seconds == (40 + 51 + 40) / 25


def test_dataset_can_be_moved(dataset: Dataset, tmp_path: Path) -> None:
    shutil.move(dataset.folder, tmp_path / "elsewhere")
    moved = open_dataset(tmp_path / "elsewhere")
    assert moved == replace(dataset, folder=tmp_path / "elsewhere")
    assert moved.fingerprint == dataset.fingerprint
    assert moved.is_whole()


def test_fingerprint_covers_the_content(dataset: Dataset) -> None:
    first = dataset.samples[0]
    others = [
        replace(dataset, checkpoint="another"),
        replace(dataset, style="official"),
        replace(dataset, samples=dataset.samples[1:]),
        *(replace(dataset, samples=(replace(first, **{field: value}), *dataset.samples[1:])) for field, value in (
            ("latents", "another"), ("name", "other.wav"), ("caption", "other"), ("genre", "other"), ("bpm", 91),
            ("lyrics", "other"), ("language", "de"), ("key", "D minor"), ("signature", "3/4"), ("repeats", 2))),
    ]
    assert len({dataset.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)
    assert replace(dataset, samples=dataset.samples[::-1]).fingerprint == dataset.fingerprint


def test_condition_name_covers_all_inputs(dataset: Dataset) -> None:
    prompt = dataset.samples[0].prompt()
    others = [dataset.samples[1].prompt(), dataset.samples[0].prompt(39), dataset.samples[0].prompt(30)]
    # 39 frames and 40 are both said to be 2 seconds, but their timbre references differ.
    assert others[1].caption_text == prompt.caption_text
    names = [dataset.condition(prompt), *map(dataset.condition, others),
             replace(dataset, checkpoint="another").condition(prompt), replace(dataset, style="x").condition(prompt)]
    assert len(set(names)) == len(names)
    assert dataset.condition(replace(prompt, caption=" song 0 ")) == dataset.condition(prompt)


def test_codes_name_follows_latents(dataset: Dataset) -> None:
    first = dataset.samples[0]
    assert len({dataset.codes(sample) for sample in dataset.samples}) == 3
    assert dataset.codes(replace(first, name="other.wav", caption="other")) == dataset.codes(first)


@pytest.mark.parametrize("kind", ["latents", "condition", "genre", "silence"])
def test_missing_file_is_not_whole(checkpoint: Checkpoint, tmp_path: Path, kind: str) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (30, 60), genre="jazz")
    assert dataset.is_whole()
    info = dataset.samples[1]
    files = {"latents": dataset.latents(info), "condition": dataset.condition(info.prompt()),
             "genre": dataset.condition(info.prompt(genre=True)), "silence": dataset.silence}
    files[kind].unlink()
    assert not dataset.is_whole()


def test_missing_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no dataset.*Preprocess the songs again"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"format": 2}', '{"format": 2, "samples": [{}]}',
                                     '{"format": 2, "samples": 3, "checkpoint": "", "style": "", "tag": ""}',
                                     '{"format": 2, "samples": [{"nonsense": 1}], "checkpoint": ""}'])
def test_damaged_manifest_is_named(dataset: Dataset, content: str) -> None:
    (dataset.folder / MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"is damaged.*manifest\.json.*Preprocess the songs"):
        open_dataset(dataset.folder)


@pytest.mark.parametrize(("field", "value", "bounds"), [
    ("frames", 0, "between 1 and 2160000"), ("frames", 2_160_001, "between 1 and 2160000"),
    ("repeats", 0, "between 1 and 1000000"), ("repeats", 1_000_001, "between 1 and 1000000")])
def test_numbers_keep_their_bounds(dataset: Dataset, field: str, value: int, bounds: str) -> None:
    manifest = strict_json.as_object(strict_json.read(dataset.folder / MANIFEST), MANIFEST)
    manifest["samples"][0][field] = value
    atomic.write_json(dataset.folder / MANIFEST, manifest)
    with pytest.raises(DatasetError, match=f"is damaged .*{field} must be {bounds}, got {value}"):
        open_dataset(dataset.folder)


def test_old_manifests_are_read(dataset: Dataset) -> None:
    manifest = strict_json.read(dataset.folder / MANIFEST)
    del manifest["trigger_word"]
    atomic.write_json(dataset.folder / MANIFEST, {**manifest, "format": 3, "tag": "zxq"})
    assert open_dataset(dataset.folder) == replace(dataset, trigger_word="zxq")


def test_other_version_is_rejected(dataset: Dataset) -> None:
    manifest = strict_json.read(dataset.folder / MANIFEST)
    atomic.write_json(dataset.folder / MANIFEST, {**manifest, "format": 1})
    with pytest.raises(DatasetError, match=r"has format 1, this version reads 4\. Preprocess the songs again"):
        open_dataset(dataset.folder)


def test_manifest_is_written_atomically(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(replace(dataset, samples=(replace(dataset.samples[0], frames=float("nan")),)))
    assert open_dataset(dataset.folder) == dataset


def test_repeats_and_genre_ratio_are_stored(dataset: Dataset) -> None:
    first, *others = dataset.samples
    kept = replace(dataset, samples=(replace(first, repeats=3), *others), genre_ratio=0.25)
    write_manifest(kept)
    assert open_dataset(dataset.folder) == kept


def test_genre_ratio_defaults_to_zero(dataset: Dataset) -> None:
    manifest = strict_json.read(dataset.folder / MANIFEST)
    del manifest["genre_ratio"]
    atomic.write_json(dataset.folder / MANIFEST, manifest)
    assert open_dataset(dataset.folder) == dataset


def test_official_conditions_ignore_rounding(dataset: Dataset) -> None:
    """Their timbre reference has a fixed length, so lengths of the same rounded duration share one."""
    info = dataset.samples[2]
    for style, different in (("comfyui", 2), ("official", 1)):
        styled = replace(dataset, style=style)
        assert len({styled.condition(info.prompt(frames)) for frames in (99, 99 - 1)}) == different
