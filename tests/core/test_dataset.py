"""A dataset on disk and in training: every song its turn, nothing padded, nothing damaged goes unnoticed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core import storage
from sidestep_core.checkpoint import Checkpoint
from sidestep_core.config import TrainConfig
from sidestep_core.dataset import (
    MANIFEST,
    Batch,
    Dataset,
    Sample,
    batches,
    load_samples,
    open_dataset,
    split_heldout,
    visited,
    whole,
    write_manifest,
)
from sidestep_core.errors import DatasetError
from tests.tiny import write_dataset

SILENT = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def dataset(checkpoint: Checkpoint, tmp_path: Path) -> Dataset:
    return write_dataset(tmp_path / "dataset", checkpoint, (40, 51, 40))


def song(number: int, frames: int = 30, tokens: int = 4) -> Sample:
    """Frame f of song n is full of 1000 n + f, so that every window shows where it is from."""
    latents_TC = (1000.0 * number + torch.arange(frames))[:, None].expand(-1, 64)
    return Sample(name=f"song{number}.wav", latents_TC=latents_TC, condition_SD=torch.full((tokens, 8), float(number)))


def songs(*frames: int) -> tuple[Sample, ...]:
    return tuple(song(number, length) for number, length in enumerate(frames))


def song_numbers(batch: Batch) -> list[int]:
    return [int(x) // 1000 for x in batch.x0_BTC[:, 0, 0]]


def all_batches(samples: tuple[Sample, ...], config: TrainConfig, steps: int) -> list[Batch]:
    return [batch for step in range(steps) for batch in batches(samples, SILENT, config, step)]


# Order


@given(count=st.integers(1, 30), seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_every_epoch_visits_every_song_once(count: int, seed: int, epoch: int) -> None:
    visits = [visited(count, seed, epoch * count + position) for position in range(count)]
    assert sorted(visits) == list(range(count))


def test_the_order_is_a_pure_function_of_seed_and_visit() -> None:
    forwards = [visited(7, 42, visit) for visit in range(70)]
    torch.manual_seed(1)
    assert [visited(7, 42, visit) for visit in reversed(range(70))] == forwards[::-1]
    assert len({tuple(forwards[start:start + 7]) for start in range(0, 70, 7)}) > 5
    assert [visited(7, 43, visit) for visit in range(70)] != forwards


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 4), (4, 1), (2, 3), (3, 1), (8, 2)])
def test_a_step_makes_exactly_its_visits(batch_size: int, accumulation: int) -> None:
    config = TrainConfig(batch_size=batch_size, gradient_accumulation=accumulation)
    samples = songs(30, 30, 20, 30, 20)
    for step in range(4):
        made = list(batches(samples, SILENT, config, step))
        per_step = batch_size * accumulation
        expected = range(step * per_step, (step + 1) * per_step)
        found = [pair for batch in made for pair in zip(batch.visits, song_numbers(batch), strict=True)]
        assert sorted(found) == [(visit, visited(5, config.seed, visit)) for visit in expected]
        assert all(len(batch.visits) <= batch_size for batch in made)


def test_only_songs_of_equal_length_and_words_share_a_batch() -> None:
    samples = (song(0, 30, 4), song(1, 30, 5), song(2, 20, 4), song(3, 30, 4))
    made = all_batches(samples, TrainConfig(batch_size=4), 6)
    for batch in made:
        for number, x0_TC, condition_SD in zip(song_numbers(batch), batch.x0_BTC, batch.condition_BSD, strict=True):
            assert torch.equal(x0_TC, samples[number].latents_TC)
            assert torch.equal(condition_SD, samples[number].condition_SD)
    assert any(set(song_numbers(batch)) == {0, 3} for batch in made)


# Windows


def test_windows_are_pieces_of_their_song_and_move_with_every_visit() -> None:
    made = all_batches(songs(60, 80), TrainConfig(crop_seconds=1), 10)
    starts = []
    for batch in made:
        frames = batch.x0_BTC[:, :, 0]
        assert frames.shape == (1, 25)
        assert torch.equal(frames, frames[:, :1] + torch.arange(25))
        starts.append(int(frames[0, 0]))
    assert len(set(starts)) > 20


def test_a_window_begins_in_a_silence_of_its_own() -> None:
    for batch in all_batches(songs(60, 80), TrainConfig(crop_seconds=1, batch_size=2), 5):
        for context_TC in batch.context_BTC:
            assert torch.equal(context_TC[:, :64], SILENT[:25])
            assert torch.equal(context_TC[:, 64:], torch.ones(25, 64))


def test_songs_shorter_than_the_window_are_used_whole() -> None:
    samples = songs(20, 60)
    lengths = {number: batch.x0_BTC.shape[1] for batch in all_batches(samples, TrainConfig(crop_seconds=2), 4)
               for number in song_numbers(batch)}
    assert lengths == {0: 20, 1: 50}


def test_windows_are_a_pure_function_of_the_visit() -> None:
    def windows(config: TrainConfig, steps: int) -> dict[int, int]:
        return {visit: int(x0_TC[0, 0]) for batch in all_batches(songs(60, 80), config, steps)
                for visit, x0_TC in zip(batch.visits, batch.x0_BTC, strict=True)}

    singles = windows(TrainConfig(crop_seconds=1), 6)
    assert windows(TrainConfig(crop_seconds=1, batch_size=3, gradient_accumulation=2), 4) == singles
    assert windows(TrainConfig(crop_seconds=1, seed=1), 6) != singles


def test_the_held_out_loss_sees_the_middle_of_the_song() -> None:
    batch = whole(song(0, 61), SILENT, TrainConfig(crop_seconds=1))
    assert batch.x0_BTC[0, :, 0].tolist() == list(range(18, 43))
    assert torch.equal(batch.context_BTC[0, :, :64], SILENT[:25])
    assert whole(song(0, 61), SILENT, TrainConfig()).x0_BTC.shape[1] == 61


# Held-out songs


def test_held_out_songs_are_never_trained_on() -> None:
    samples = songs(*[30] * 12)
    config = TrainConfig(heldout_songs=3)
    trained, heldout = split_heldout(samples, config)
    assert sorted(sample.name for sample in (*trained, *heldout)) == sorted(sample.name for sample in samples)
    assert len(heldout) == 3
    seen = {samples[number].name for batch in all_batches(trained, config, 50) for number in song_numbers(batch)}
    assert seen == {sample.name for sample in trained}


@pytest.mark.parametrize(("count", "held"), [(1, 0), (3, 0), (4, 1), (19, 1), (20, 2), (99, 9)])
def test_automatic_is_one_in_ten_and_none_below_four(count: int, held: int) -> None:
    assert len(split_heldout(songs(*[5] * count), TrainConfig())[1]) == held


@pytest.mark.parametrize("count", [2, 3])
def test_something_must_be_left_to_train_on(count: int) -> None:
    with pytest.raises(DatasetError, match=rf"heldout_songs is {count} but the dataset has 2"):
        split_heldout(songs(5, 5), TrainConfig(heldout_songs=count))


@given(seed=st.integers(0, 1000), added=st.integers(100, 10**6))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_a_new_song_changes_the_choice_by_itself_at_most(seed: int, added: int) -> None:
    config = TrainConfig(heldout_songs=3, seed=seed)
    samples = songs(*[5] * 10)
    before = {sample.name for sample in split_heldout(samples, config)[1]}
    new = song(added, 5)
    after = {sample.name for sample in split_heldout((new, *samples), config)[1]}
    assert after <= before | {new.name}


def test_another_seed_holds_out_other_songs() -> None:
    samples = songs(*[5] * 30)
    chosen = {tuple(sample.name for sample in split_heldout(samples, TrainConfig(seed=seed))[1]) for seed in range(5)}
    assert len(chosen) > 1


# On disk


def test_a_dataset_is_read_as_it_was_written(dataset: Dataset) -> None:
    assert open_dataset(dataset.folder) == dataset
    assert dataset.seconds == (40 + 51 + 40) / 25


def test_a_dataset_may_be_moved(dataset: Dataset, tmp_path: Path) -> None:
    shutil.move(dataset.folder, tmp_path / "elsewhere")
    moved = open_dataset(tmp_path / "elsewhere")
    assert moved == replace(dataset, folder=tmp_path / "elsewhere")
    assert moved.fingerprint == dataset.fingerprint
    assert len(load_samples(moved)[0]) == 3


def test_the_fingerprint_is_of_the_content(dataset: Dataset) -> None:
    first = dataset.samples[0]
    others = [
        replace(dataset, checkpoint="another"),
        replace(dataset, style="official"),
        replace(dataset, samples=dataset.samples[1:]),
        replace(dataset, samples=(replace(first, file="another.safetensors"), *dataset.samples[1:])),
    ]
    assert len({dataset.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert replace(dataset, samples=dataset.samples[::-1]).fingerprint == dataset.fingerprint


def test_samples_come_back_bit_for_bit(dataset: Dataset) -> None:
    samples, silence_TC = load_samples(dataset)
    for sample, info in zip(samples, dataset.samples, strict=True):
        stored = storage.read_tensors(dataset.folder / info.file)
        assert sample.name == info.name
        assert torch.equal(sample.latents_TC, stored["latents"])
        assert torch.equal(sample.condition_SD, stored["condition"])
        assert sample.latents_TC.shape == (info.frames, 64)
    assert torch.equal(silence_TC, storage.read_tensors(dataset.silence)["silence"])


def test_a_folder_without_a_dataset_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no preprocessed dataset.*Run PreprocessAudioFolder"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"format": 1}', '{"format": 1, "samples": [{}]}',
                                     '{"format": 1, "samples": 3, "checkpoint": "", "style": "", "tag": ""}',
                                     '{"format": 1, "samples": [{"nonsense": 1}], "checkpoint": ""}'])
def test_a_damaged_manifest_is_named(dataset: Dataset, content: str) -> None:
    (dataset.folder / MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"manifest\.json is damaged.*Run PreprocessAudioFolder"):
        open_dataset(dataset.folder)


def test_a_manifest_of_another_version_is_refused(dataset: Dataset) -> None:
    manifest = storage.read_json(dataset.folder / MANIFEST)
    storage.write_json(dataset.folder / MANIFEST, {**manifest, "format": 2})
    with pytest.raises(DatasetError, match=r"has format 2, this version reads 1"):
        open_dataset(dataset.folder)


@pytest.mark.parametrize("name", ["1.safetensors", "silence"])
def test_a_missing_file_is_named(dataset: Dataset, name: str) -> None:
    name = dataset.silence.name if name == "silence" else name
    (dataset.folder / name).unlink()
    with pytest.raises(DatasetError, match=rf"{name} is missing.*makes only what is missing"):
        load_samples(dataset)


@pytest.mark.parametrize("name", ["1.safetensors", "silence"])
def test_a_truncated_file_is_named(dataset: Dataset, name: str) -> None:
    path = dataset.silence if name == "silence" else dataset.folder / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=rf"{name}.*PreprocessAudioFolder"):
        load_samples(dataset)


@pytest.mark.parametrize("part", ["latents", "condition"])
def test_a_file_that_lacks_a_part_is_named(dataset: Dataset, part: str) -> None:
    path = dataset.folder / "1.safetensors"
    tensors = storage.read_tensors(path)
    del tensors[part]
    storage.write_tensors(path, tensors)
    with pytest.raises(DatasetError, match=r"1\.safetensors.*PreprocessAudioFolder"):
        load_samples(dataset)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", ["latents", "condition"])
def test_what_is_not_finite_is_named(dataset: Dataset, part: str, value: float) -> None:
    path = dataset.folder / "1.safetensors"
    tensors = storage.read_tensors(path)
    tensors[part][3, 5] = value
    storage.write_tensors(path, tensors)
    with pytest.raises(DatasetError, match=rf"{part} of 'song1\.wav'.*not finite.*1\.safetensors"):
        load_samples(dataset)


def test_the_manifest_is_whole_or_the_old_one(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(replace(dataset, samples=(replace(dataset.samples[0], frames=float("nan")),)))
    assert open_dataset(dataset.folder) == dataset


# Onto the device


def test_latents_stay_float32_where_the_model_is_bfloat16() -> None:
    batch = next(batches(songs(30), SILENT, TrainConfig(), 0)).to(torch.device("cpu"), torch.bfloat16)
    assert batch.x0_BTC.dtype == torch.float32
    assert batch.condition_BSD.dtype == batch.context_BTC.dtype == torch.bfloat16
