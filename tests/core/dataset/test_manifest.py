"""A dataset on disk and in memory: nothing damaged goes unnoticed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sidestep_core.dataset.manifest import MANIFEST, Dataset, load_samples, open_dataset, resolved, write_manifest
from sidestep_core.errors import DatasetError
from sidestep_core.io import atomic, strict_json
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.training.batches import trained_visits
from sidestep_core.training.config import TrainConfig
from tests.tiny import write_dataset

CONFIG = TrainConfig()


@pytest.fixture
def dataset(checkpoint: Checkpoint, tmp_path: Path) -> Dataset:
    return write_dataset(tmp_path / "dataset", checkpoint, (40, 51, 40))


def test_a_dataset_is_read_as_it_was_written(dataset: Dataset) -> None:
    assert open_dataset(dataset.folder) == dataset
    assert dataset.seconds == (40 + 51 + 40) / 25


def test_a_dataset_may_be_moved(dataset: Dataset, tmp_path: Path) -> None:
    shutil.move(dataset.folder, tmp_path / "elsewhere")
    moved = open_dataset(tmp_path / "elsewhere")
    assert moved == replace(dataset, folder=tmp_path / "elsewhere")
    assert moved.fingerprint == dataset.fingerprint
    assert len(load_samples(moved, CONFIG)[0]) == 3


def test_the_fingerprint_is_of_the_content(dataset: Dataset) -> None:
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


def test_a_condition_is_named_by_all_that_it_is_made_from(dataset: Dataset) -> None:
    prompt = dataset.samples[0].prompt()
    others = [dataset.samples[1].prompt(), dataset.samples[0].prompt(39), dataset.samples[0].prompt(30)]
    # 39 frames and 40 are both said to be 2 seconds, but their timbre references differ.
    assert others[1].caption_text == prompt.caption_text
    names = [dataset.condition(prompt), *map(dataset.condition, others),
             replace(dataset, checkpoint="another").condition(prompt), replace(dataset, style="x").condition(prompt)]
    assert len(set(names)) == len(names)
    assert dataset.condition(replace(prompt, caption=" song 0 ")) == dataset.condition(prompt)


def test_codes_are_named_by_their_latents(dataset: Dataset) -> None:
    first = dataset.samples[0]
    assert len({dataset.codes(sample) for sample in dataset.samples}) == 3
    assert dataset.codes(replace(first, name="other.wav", caption="other")) == dataset.codes(first)


def test_samples_come_back_bit_for_bit(dataset: Dataset) -> None:
    samples, silence_TC = load_samples(dataset, CONFIG)
    for sample, info in zip(samples, dataset.samples, strict=True):
        latents = read_tensors(dataset.latents(info))["latents"]
        condition = read_tensors(dataset.condition(info.prompt()))["condition"]
        assert sample.name == info.name
        assert torch.equal(sample.latents_TC, latents)
        assert torch.equal(sample.condition_SD, condition)
        assert sample.latents_TC.shape == (info.frames, 64)
        assert (sample.genre_SD, sample.codes_TC) == (None, None)
    assert torch.equal(silence_TC, read_tensors(dataset.silence)["silence"])


def test_a_training_loads_what_it_asks_for(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (30, 60, 80), windows=(50,), genre="jazz", codes=True)
    config = TrainConfig(chunk_duration=2, genre_ratio=0.1, context_mode="mixed")
    for sample, info, frames in zip(load_samples(dataset, config)[0], dataset.samples, (30, 50, 50), strict=True):
        for found, genre in ((sample.condition_SD, False), (sample.genre_SD, True)):
            expected = read_tensors(dataset.condition(info.prompt(frames, genre=genre)))["condition"]
            assert found is not None
            assert torch.equal(found, expected)
        assert sample.codes_TC is not None
        assert torch.equal(sample.codes_TC, read_tensors(dataset.codes(info))["codes"])


def test_a_window_whose_condition_is_missing_is_an_error(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (30, 60), windows=(50,), genre="jazz")
    load_samples(dataset, TrainConfig(chunk_duration=2))
    for config in (TrainConfig(chunk_duration=1), TrainConfig(context_mode="codes")):
        with pytest.raises(DatasetError, match="is missing from the dataset"):
            load_samples(dataset, config)


@pytest.mark.parametrize("kind", ["latents", "condition", "genre", "silence"])
def test_a_dataset_without_one_of_its_files_is_not_whole(checkpoint: Checkpoint, tmp_path: Path, kind: str) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (30, 60), genre="jazz")
    assert dataset.is_whole()
    info = dataset.samples[1]
    files = {"latents": dataset.latents(info), "condition": dataset.condition(info.prompt()),
             "genre": dataset.condition(info.prompt(genre=True)), "silence": dataset.silence}
    files[kind].unlink()
    assert not dataset.is_whole()


def test_a_folder_without_a_dataset_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no dataset.*Preprocess the songs"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"format": 2}', '{"format": 2, "samples": [{}]}',
                                     '{"format": 2, "samples": 3, "checkpoint": "", "style": "", "tag": ""}',
                                     '{"format": 2, "samples": [{"nonsense": 1}], "checkpoint": ""}'])
def test_a_damaged_manifest_is_named(dataset: Dataset, content: str) -> None:
    (dataset.folder / MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"is damaged.*manifest\.json.*Preprocess the songs"):
        open_dataset(dataset.folder)


def test_old_manifests_are_read(dataset: Dataset) -> None:
    manifest = strict_json.read(dataset.folder / MANIFEST)
    del manifest["trigger_word"]
    atomic.write_json(dataset.folder / MANIFEST, {**manifest, "format": 3, "tag": "zxq"})
    assert open_dataset(dataset.folder) == replace(dataset, trigger_word="zxq")


def test_a_manifest_of_another_version_is_refused(dataset: Dataset) -> None:
    manifest = strict_json.read(dataset.folder / MANIFEST)
    atomic.write_json(dataset.folder / MANIFEST, {**manifest, "format": 1})
    with pytest.raises(DatasetError, match=r"has format 1, this version reads 4\. Preprocess the songs again"):
        open_dataset(dataset.folder)


def file_of(dataset: Dataset, kind: str) -> Path:
    """The latents or the condition of the second song, or the silence."""
    info = dataset.samples[1]
    return {"latents": dataset.latents(info), "condition": dataset.condition(info.prompt()),
            "silence": dataset.silence}[kind]


KINDS = pytest.mark.parametrize("kind", ["latents", "condition", "silence"])


@KINDS
def test_a_missing_file_is_named(dataset: Dataset, kind: str) -> None:
    path = file_of(dataset, kind)
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{path.name} is missing.*only what is missing is made"):
        load_samples(dataset, CONFIG)


@KINDS
def test_a_truncated_file_is_named(dataset: Dataset, kind: str) -> None:
    path = file_of(dataset, kind)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=rf"{path.name}.*Preprocess the songs"):
        load_samples(dataset, CONFIG)


@KINDS
def test_a_file_that_holds_something_else_is_named(dataset: Dataset, kind: str) -> None:
    path = file_of(dataset, kind)
    write_tensors(path, {"other": torch.zeros(3)})
    with pytest.raises(DatasetError, match=rf"{path.name}.*Preprocess the songs"):
        load_samples(dataset, CONFIG)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@KINDS
def test_what_is_not_finite_is_named(dataset: Dataset, kind: str, value: float) -> None:
    path = file_of(dataset, kind)
    values = read_tensors(path)[kind].clone()
    values[3, 5] = value
    write_tensors(path, {kind: values})
    song = "silence" if kind == "silence" else "song1.wav"
    with pytest.raises(DatasetError, match=rf"{kind} of '{song}'.*not finite.*{path.name}"):
        load_samples(dataset, CONFIG)


def test_the_manifest_is_whole_or_the_old_one(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(replace(dataset, samples=(replace(dataset.samples[0], frames=float("nan")),)))
    assert open_dataset(dataset.folder) == dataset


def test_repeats_and_genre_ratio_are_kept(dataset: Dataset) -> None:
    first, *others = dataset.samples
    kept = replace(dataset, samples=(replace(first, repeats=3), *others), genre_ratio=0.25)
    write_manifest(kept)
    assert open_dataset(dataset.folder) == kept
    assert [sample.repeats for sample in load_samples(kept, CONFIG)[0]] == [3, 1, 1]
    assert trained_visits(kept, CONFIG) == 5
    assert trained_visits(dataset, CONFIG) == 3


def test_a_manifest_that_says_no_genre_ratio_has_none(dataset: Dataset) -> None:
    manifest = strict_json.read(dataset.folder / MANIFEST)
    del manifest["genre_ratio"]
    atomic.write_json(dataset.folder / MANIFEST, manifest)
    assert open_dataset(dataset.folder) == dataset


def test_the_dataset_says_how_often_genres_are_shown_where_the_training_does_not(dataset: Dataset) -> None:
    dataset = replace(dataset, genre_ratio=0.25)
    assert resolved(TrainConfig(), dataset) == TrainConfig(genre_ratio=0.25)
    for ratio in (0.0, 0.5):
        assert resolved(TrainConfig(genre_ratio=ratio), dataset) == TrainConfig(genre_ratio=ratio)
