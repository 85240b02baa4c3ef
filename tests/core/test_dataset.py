"""A dataset on disk and in training: every song its turn, nothing padded, nothing damaged goes unnoticed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sidestep_core import storage
from sidestep_core.checkpoint import Checkpoint
from sidestep_core.dataset import (
    MANIFEST,
    Batch,
    Dataset,
    Sample,
    batches,
    frames_trained,
    load_samples,
    open_dataset,
    split_heldout,
    visited,
    visits_of_step,
    whole,
    write_manifest,
)
from sidestep_core.errors import DatasetError
from sidestep_core.train_config import TrainConfig
from tests.tiny import write_dataset
from tests.tolerance import COVERED

CONFIG = TrainConfig()
SILENT = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def dataset(checkpoint: Checkpoint, tmp_path: Path) -> Dataset:
    return write_dataset(tmp_path / "dataset", checkpoint, (40, 51, 40))


def song(number: int, frames: int = 30, tokens: int = 4) -> Sample:
    """Frame f of song n is full of 1000 n + f, so that every window shows where it is from; its codes of -(1000 n + f),
    its caption's condition of n, its genre's of -n."""
    latents_TC = (1000.0 * number + torch.arange(frames))[:, None].expand(-1, 64)
    condition_SD = torch.full((tokens, 8), float(number))
    return Sample(name=f"song{number}.wav", latents_TC=latents_TC, condition_SD=condition_SD, genre_SD=-condition_SD,
                  codes_TC=-latents_TC)


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
    made = all_batches(songs(60, 80), TrainConfig(chunk_duration=1), 10)
    starts = []
    for batch in made:
        frames = batch.x0_BTC[:, :, 0]
        assert frames.shape == (1, 25)
        assert torch.equal(frames, frames[:, :1] + torch.arange(25))
        starts.append(int(frames[0, 0]))
    assert len(set(starts)) > 20


def test_a_window_begins_in_a_silence_of_its_own() -> None:
    for batch in all_batches(songs(60, 80), TrainConfig(chunk_duration=1, batch_size=2), 5):
        for context_TC in batch.context_BTC:
            assert torch.equal(context_TC[:, :64], SILENT[:25])
            assert torch.equal(context_TC[:, 64:], torch.ones(25, 64))


def test_songs_shorter_than_the_window_are_used_whole() -> None:
    samples = songs(20, 60)
    lengths = {number: batch.x0_BTC.shape[1] for batch in all_batches(samples, TrainConfig(chunk_duration=2), 4)
               for number in song_numbers(batch)}
    assert lengths == {0: 20, 1: 50}


def first_frames(config: TrainConfig, steps: int, samples: tuple[Sample, ...]) -> dict[int, int]:
    """Visit -> first frame (with its song)."""
    return {visit: int(x0_TC[0, 0]) for batch in all_batches(samples, config, steps)
            for visit, x0_TC in zip(batch.visits, batch.x0_BTC, strict=True)}


def test_windows_are_a_pure_function_of_the_visit() -> None:
    samples = songs(60, 80)
    singles = first_frames(TrainConfig(chunk_duration=1), 6, samples)
    assert first_frames(TrainConfig(chunk_duration=1, batch_size=3, gradient_accumulation=2), 4, samples) == singles
    assert first_frames(TrainConfig(chunk_duration=1, seed=1), 6, samples) != singles


def test_max_latent_length_is_the_same_window_in_frames() -> None:
    samples = songs(60, 80)
    exact = first_frames(TrainConfig(max_latent_length=30), 6, samples)
    assert first_frames(TrainConfig(chunk_duration=1.2), 6, samples) == exact
    assert first_frames(TrainConfig(chunk_duration=2, max_latent_length=30), 6, samples) == exact
    assert [frames_trained(frames, TrainConfig(max_latent_length=30)) for frames in (20, 30, 31)] == [20, 30, 30]
    assert frames_trained(31, CONFIG) == 31


def coverage(samples: tuple[Sample, ...], config: TrainConfig, epochs: int) -> list[Tensor]:
    """How often each frame of each song is visited."""
    counts = [torch.zeros(len(sample.latents_TC)) for sample in samples]
    steps = epochs * len(samples) // config.samples_per_step
    for start in first_frames(config, steps, samples).values():
        number, frame = divmod(start, 1000)
        counts[number][frame:frame + config.chunk_frames] += 1
    return counts


def test_every_frame_of_every_song_is_visited_at_least_half_as_often_as_the_average() -> None:
    epochs, samples = 40, songs(100, 260, 999, 61)
    for counts in coverage(samples, TrainConfig(chunk_duration=2), epochs):
        average = epochs * 50 / len(counts)
        assert average / 2 - COVERED < float(counts.min()) <= float(counts.max()) < 1.5 * average + COVERED


def test_windows_begin_with_a_code_where_there_are_codes() -> None:
    samples = songs(103, 80)
    for mode in ("codes", "mixed"):
        starts = first_frames(TrainConfig(chunk_duration=1, context_mode=mode), 30, samples).values()
        assert {start % 5 for start in starts} == {0}
        assert whole(samples[0], SILENT, TrainConfig(chunk_duration=1, context_mode=mode)).x0_BTC[0, 0, 0] == 35
    assert len({start % 5 for start in first_frames(TrainConfig(chunk_duration=1), 30, samples).values()}) == 5


def test_the_held_out_loss_sees_the_middle_of_the_song() -> None:
    batch = whole(song(0, 61), SILENT, TrainConfig(chunk_duration=1))
    assert batch.x0_BTC[0, :, 0].tolist() == list(range(18, 43))
    assert torch.equal(batch.context_BTC[0, :, :64], SILENT[:25])
    assert whole(song(0, 61), SILENT, TrainConfig()).x0_BTC.shape[1] == 61


# The steps of a run by epochs


def test_a_run_by_epochs_ends_with_the_visits_that_are_left() -> None:
    config = TrainConfig(epochs=3, gradient_accumulation=4)
    steps = config.total_steps(5)
    assert steps == 4
    assert [list(visits_of_step(config, 5, step)) for step in range(steps)] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14]]
    made = all_batches(songs(30, 30, 20, 30, 20), config, steps)
    assert sorted(visit for batch in made for visit in batch.visits) == list(range(15))
    numbers = [number for batch in made for number in song_numbers(batch)]
    assert sorted(numbers) == sorted([0, 1, 2, 3, 4] * 3)


def test_a_run_by_steps_has_full_steps_only() -> None:
    config = TrainConfig(max_steps=4, gradient_accumulation=4)
    assert [len(visits_of_step(config, 5, step)) for step in range(4)] == [4] * 4


# Words and context


VISITS = 2000


def per_visit(samples: tuple[Sample, ...], config: TrainConfig) -> dict[int, tuple[int, float, float]]:
    """Visit -> its song, first value of its condition, first value of its context."""
    found = {}
    for batch in batches(samples, SILENT, replace(config, gradient_accumulation=VISITS), 0):
        for visit, number, condition_SD, context_TC in zip(batch.visits, song_numbers(batch), batch.condition_BSD,
                                                           batch.context_BTC, strict=True):
            found[visit] = (number, float(condition_SD[0, 0]), float(context_TC[0, 0]))
    return found


def share(hits: Iterable[bool]) -> float:
    return float(torch.tensor(list(hits)).float().mean())


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_genres_stand_in_for_captions_at_the_rate_asked(ratio: float) -> None:
    four_standard_errors = 4 * (ratio * (1 - ratio) / VISITS) ** 0.5
    seen = per_visit((song(1), song(2)), TrainConfig(genre_ratio=ratio))
    assert all(condition in (number, -number) for number, condition, _ in seen.values())
    found = share(condition < 0 for _, condition, _ in seen.values())
    assert abs(found - ratio) <= four_standard_errors
    assert abs(found - ratio - 0.06) > four_standard_errors
    wider = per_visit((song(1), song(2)), TrainConfig(genre_ratio=min(1.0, ratio + 0.1), batch_size=3))
    assert all(wider[visit][1] < 0 for visit in seen if seen[visit][1] < 0), "not the same draw of each visit"


def test_a_song_without_genre_keeps_its_caption() -> None:
    samples = (song(1), replace(song(2), genre_SD=None))
    seen = per_visit(samples, TrainConfig(genre_ratio=1.0))
    assert {(number, condition) for number, condition, _ in seen.values()} == {(1, -1), (2, 2)}


@pytest.mark.parametrize(("mode", "ratio", "expected"), [("silence", 0.5, 0.0), ("mixed", 0.3, 0.3),
                                                         ("mixed", 0.8, 0.8), ("codes", 0.3, 1.0)])
def test_codes_are_the_context_at_the_rate_asked(mode: Any, ratio: float, expected: float) -> None:
    four_standard_errors = 4 * (expected * (1 - expected) / VISITS) ** 0.5
    seen = per_visit((song(1), song(2)), TrainConfig(context_mode=mode, codes_ratio=ratio))
    found = share(context == -1000 * number for number, _, context in seen.values())
    assert abs(found - expected) <= four_standard_errors
    assert abs(found - expected - 0.06) > four_standard_errors


def test_genres_and_codes_are_drawn_apart() -> None:
    config = TrainConfig(context_mode="mixed", codes_ratio=0.5, genre_ratio=0.5)
    seen = per_visit((song(1), song(2)), config)
    both = share(condition < 0 and context < -500 for _, condition, context in seen.values())
    assert abs(both - 0.25) < 4 * (0.25 * 0.75 / VISITS) ** 0.5


def test_codes_of_a_window_are_those_of_its_frames() -> None:
    config = TrainConfig(context_mode="codes", chunk_duration=1, batch_size=2)
    for batch in all_batches(songs(60, 80), config, 10):
        assert torch.equal(batch.context_BTC[:, :, :64], -batch.x0_BTC)
        assert torch.equal(batch.context_BTC[:, :, 64:], torch.ones_like(batch.x0_BTC))


def test_the_held_out_loss_has_captions_and_one_context() -> None:
    for mode in ("silence", "mixed", "codes"):
        batch = whole(song(3, 61), SILENT, TrainConfig(genre_ratio=1.0, context_mode=mode, codes_ratio=1.0))
        assert (batch.condition_BSD == 3).all()
        expected = -batch.x0_BTC[0] if mode == "codes" else SILENT[:61]
        assert torch.equal(batch.context_BTC[0, :, :64], expected)


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
    assert len(load_samples(moved, CONFIG)[0]) == 3


def test_the_fingerprint_is_of_the_content(dataset: Dataset) -> None:
    first = dataset.samples[0]
    others = [
        replace(dataset, checkpoint="another"),
        replace(dataset, style="official"),
        replace(dataset, samples=dataset.samples[1:]),
        *(replace(dataset, samples=(replace(first, **{field: value}), *dataset.samples[1:])) for field, value in (
            ("latents", "another"), ("name", "other.wav"), ("caption", "other"), ("genre", "other"), ("bpm", 91),
            ("lyrics", "other"), ("language", "de"), ("key", "D minor"), ("signature", "3/4"))),
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
        latents = storage.read_tensors(dataset.latents(info))["latents"]
        condition = storage.read_tensors(dataset.condition(info.prompt()))["condition"]
        assert sample.name == info.name
        assert torch.equal(sample.latents_TC, latents)
        assert torch.equal(sample.condition_SD, condition)
        assert sample.latents_TC.shape == (info.frames, 64)
        assert (sample.genre_SD, sample.codes_TC) == (None, None)
    assert torch.equal(silence_TC, storage.read_tensors(dataset.silence)["silence"])


def test_a_training_loads_what_it_asks_for(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (30, 60, 80), windows=(50,), genre="jazz", codes=True)
    config = TrainConfig(chunk_duration=2, genre_ratio=0.1, context_mode="mixed")
    for sample, info, frames in zip(load_samples(dataset, config)[0], dataset.samples, (30, 50, 50), strict=True):
        for found, genre in ((sample.condition_SD, False), (sample.genre_SD, True)):
            expected = storage.read_tensors(dataset.condition(info.prompt(frames, genre=genre)))["condition"]
            assert found is not None
            assert torch.equal(found, expected)
        assert sample.codes_TC is not None
        assert torch.equal(sample.codes_TC, storage.read_tensors(dataset.codes(info))["codes"])


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
    with pytest.raises(DatasetError, match=r"holds no preprocessed dataset.*Run PreprocessAudioFolder"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"format": 2}', '{"format": 2, "samples": [{}]}',
                                     '{"format": 2, "samples": 3, "checkpoint": "", "style": "", "tag": ""}',
                                     '{"format": 2, "samples": [{"nonsense": 1}], "checkpoint": ""}'])
def test_a_damaged_manifest_is_named(dataset: Dataset, content: str) -> None:
    (dataset.folder / MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"manifest\.json is damaged.*Run PreprocessAudioFolder"):
        open_dataset(dataset.folder)


def test_a_manifest_of_another_version_is_refused(dataset: Dataset) -> None:
    manifest = storage.read_json(dataset.folder / MANIFEST)
    storage.write_json(dataset.folder / MANIFEST, {**manifest, "format": 1})
    with pytest.raises(DatasetError, match=r"has format 1, this version reads 2\. Run PreprocessAudioFolder again"):
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
    with pytest.raises(DatasetError, match=rf"{path.name} is missing.*makes only what is missing"):
        load_samples(dataset, CONFIG)


@KINDS
def test_a_truncated_file_is_named(dataset: Dataset, kind: str) -> None:
    path = file_of(dataset, kind)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=rf"{path.name}.*PreprocessAudioFolder"):
        load_samples(dataset, CONFIG)


@KINDS
def test_a_file_that_holds_something_else_is_named(dataset: Dataset, kind: str) -> None:
    path = file_of(dataset, kind)
    storage.write_tensors(path, {"other": torch.zeros(3)})
    with pytest.raises(DatasetError, match=rf"{path.name}.*PreprocessAudioFolder"):
        load_samples(dataset, CONFIG)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@KINDS
def test_what_is_not_finite_is_named(dataset: Dataset, kind: str, value: float) -> None:
    path = file_of(dataset, kind)
    values = storage.read_tensors(path)[kind].clone()
    values[3, 5] = value
    storage.write_tensors(path, {kind: values})
    song = "silence" if kind == "silence" else "song1.wav"
    with pytest.raises(DatasetError, match=rf"{kind} of '{song}'.*not finite.*{path.name}"):
        load_samples(dataset, CONFIG)


def test_the_manifest_is_whole_or_the_old_one(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_manifest(replace(dataset, samples=(replace(dataset.samples[0], frames=float("nan")),)))
    assert open_dataset(dataset.folder) == dataset


# Onto the device


def test_latents_stay_float32_where_the_model_is_bfloat16() -> None:
    batch = next(batches(songs(30), SILENT, TrainConfig(), 0)).to(torch.device("cpu"), torch.bfloat16)
    assert batch.x0_BTC.dtype == torch.float32
    assert batch.condition_BSD.dtype == batch.context_BTC.dtype == torch.bfloat16
