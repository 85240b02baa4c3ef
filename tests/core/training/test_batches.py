"""Draws of a training: every sample as often as it asks for, every frame covered, nothing padded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sidestep_core.training.batches import (
    Batch,
    batches,
    count_songs,
    draws_of_step,
    draws_per_epoch,
    shuffled,
    single,
)
from sidestep_core.training.config import ResolvedConfig
from sidestep_core.training.data import Sample, crop_frames
from tests.tolerance import COVERED
from tests.training import conditions, settled

CONFIG = settled()
SILENT = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))


def song(number: int, frames: int = 30, tokens: int = 4) -> Sample:
    """Song n whose frame f is filled with 1000 n + f, its codes with -(1000 n + f), its caption's condition with n, and
    its genre's with -n."""
    latents_TC = (1000.0 * number + torch.arange(frames))[:, None].expand(-1, 64)
    condition_SD = torch.full((tokens, 8), float(number))
    return Sample(name=f"song{number}.wav", latents_TC=latents_TC, condition_SD=condition_SD, genre_SD=-condition_SD,
                  codes_TC=-latents_TC)


def songs(*frames: int) -> tuple[Sample, ...]:
    return tuple(song(number, length) for number, length in enumerate(frames))


def song_numbers(batch: Batch) -> list[int]:
    return [int(x) // 1000 for x in batch.x0_BTC[:, 0, 0]]


def all_batches(samples: tuple[Sample, ...], config: ResolvedConfig, steps: int) -> list[Batch]:
    return [batch for step in range(steps) for batch in batches(samples, SILENT, config, step)]


# Order


@given(count=st.integers(1, 30), seed=st.integers(0, 2**40), epoch=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_epochs_are_permutations(count: int, seed: int, epoch: int) -> None:
    draws = [shuffled(count, seed, epoch * count + position) for position in range(count)]
    assert sorted(draws) == list(range(count))


def test_order_depends_on_seed_only() -> None:
    forwards = [shuffled(7, 42, draw) for draw in range(70)]
    torch.manual_seed(1)
    assert [shuffled(7, 42, draw) for draw in reversed(range(70))] == forwards[::-1]
    assert len({tuple(forwards[start:start + 7]) for start in range(0, 70, 7)}) > 5
    assert [shuffled(7, 43, draw) for draw in range(70)] != forwards


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 4), (4, 1), (2, 3), (3, 1), (8, 2)])
def test_steps_cover_their_draws(batch_size: int, accumulation: int) -> None:
    config = settled(batch_size=batch_size, gradient_accumulation=accumulation)
    samples = songs(30, 30, 20, 30, 20)
    for step in range(4):
        made = list(batches(samples, SILENT, config, step))
        per_step = batch_size * accumulation
        expected = range(step * per_step, (step + 1) * per_step)
        found = [pair for batch in made for pair in zip(batch.draws, song_numbers(batch), strict=True)]
        assert sorted(found) == [(draw, shuffled(5, config.seed, draw)) for draw in expected]
        assert all(len(batch.draws) <= batch_size for batch in made)


def test_equal_lengths_share_a_batch() -> None:
    samples = (song(0, 30, 4), song(1, 30, 5), song(2, 20, 4), song(3, 30, 4))
    made = all_batches(samples, settled(batch_size=4), 6)
    for batch in made:
        for number, x0_TC, condition_SD in zip(song_numbers(batch), batch.x0_BTC, conditions(batch), strict=True):
            assert torch.equal(x0_TC, samples[number].latents_TC)
            assert torch.equal(condition_SD, samples[number].condition_SD)
    assert any(set(song_numbers(batch)) == {0, 1, 3} for batch in made)
    assert all({len(condition) for condition in conditions(batch)} <= {4, 5} for batch in made)


def test_different_words_share_a_pass() -> None:
    """As many forward passes as steps accumulate, however many words the songs have."""
    samples = tuple(song(number, 60 + number, 4 + number) for number in range(8))
    for batch_size, accumulation in ((4, 1), (2, 2), (4, 4)):
        config = settled(batch_size=batch_size, gradient_accumulation=accumulation, chunk_duration=1)
        assert len(all_batches(samples, config, 10)) == 10 * accumulation


# Repeats


def repeated(*repeats: int, frames: int = 30) -> tuple[Sample, ...]:
    return tuple(replace(song(number, frames), repeats=count) for number, count in enumerate(repeats))


@pytest.mark.parametrize("repeats", [(1, 1, 1), (3, 1, 2), (1, 4)])
def test_repeats_count_per_epoch(repeats: tuple[int, ...]) -> None:
    samples, epoch = repeated(*repeats), sum(repeats)
    config = settled(gradient_accumulation=epoch)
    assert draws_per_epoch(samples) == epoch
    for step in range(3):
        numbers = [number for batch in batches(samples, SILENT, config, step) for number in song_numbers(batch)]
        assert Counter(numbers) == dict(enumerate(repeats))


def test_one_repeat_changes_nothing() -> None:
    plain, config = songs(60, 60, 60), settled(chunk_duration=1)
    assert first_frames(config, 6, plain) == first_frames(config, 6, repeated(1, 1, 1, frames=60))
    assert first_frames(config, 6, plain) != first_frames(config, 6, repeated(1, 1, 2, frames=60))


def test_repeats_draw_different_crops() -> None:
    samples = repeated(4, frames=99)
    config = settled(chunk_duration=1, gradient_accumulation=4)
    starts = [start for step in range(3) for start in first_frames_of_step(config, step, samples)]
    assert len(set(starts)) > 9
    once = sorted(first_frames(replace(config, gradient_accumulation=12), 1, repeated(1, frames=99)).values())
    assert sorted(starts) == once, "four draws in each of three epochs must equal one in each of twelve"


def first_frames_of_step(config: ResolvedConfig, step: int, samples: tuple[Sample, ...]) -> list[int]:
    return [int(x0_TC[0, 0]) for batch in batches(samples, SILENT, config, step) for x0_TC in batch.x0_BTC]


def test_sections_count_as_one_song() -> None:
    assert count_songs(tuple(replace(sample, audio="one file") for sample in songs(*[5] * 24))) == 1
    assert count_songs(songs(*[5] * 24)) == 24


def test_many_repeats_need_no_memory() -> None:
    first = next(batches(repeated(10**6, 1, 1), SILENT, settled(gradient_accumulation=1), 0))
    assert song_numbers(first) == [0]


def test_epochs_count_repeats() -> None:
    config, samples = settled(epochs=2, gradient_accumulation=4), repeated(3, 1, 1)
    steps = config.total_steps(draws_per_epoch(samples))
    assert steps == 3
    numbers = [number for batch in all_batches(samples, config, steps) for number in song_numbers(batch)]
    assert Counter(numbers) == {0: 6, 1: 2, 2: 2}


# Crops


def test_crops_move_with_every_draw() -> None:
    made = all_batches(songs(60, 80), settled(chunk_duration=1), 10)
    starts = []
    for batch in made:
        frames = batch.x0_BTC[:, :, 0]
        assert frames.shape == (1, 25)
        assert torch.equal(frames, frames[:, :1] + torch.arange(25))
        starts.append(int(frames[0, 0]))
    assert len(set(starts)) > 20


def test_crop_context_starts_at_silence() -> None:
    for batch in all_batches(songs(60, 80), settled(chunk_duration=1, batch_size=2), 5):
        for context_TC in batch.context_BTC:
            assert torch.equal(context_TC[:, :64], SILENT[:25])
            assert torch.equal(context_TC[:, 64:], torch.ones(25, 64))


def test_short_songs_are_used_whole() -> None:
    samples = songs(20, 60)
    lengths = {number: batch.x0_BTC.shape[1] for batch in all_batches(samples, settled(chunk_duration=2), 4)
               for number in song_numbers(batch)}
    assert lengths == {0: 20, 1: 50}


def first_frames(config: ResolvedConfig, steps: int, samples: tuple[Sample, ...]) -> dict[int, int]:
    """Draw -> first frame (with its song)."""
    return {draw: int(x0_TC[0, 0]) for batch in all_batches(samples, config, steps)
            for draw, x0_TC in zip(batch.draws, batch.x0_BTC, strict=True)}


def test_crops_depend_on_the_draw_only() -> None:
    samples = songs(60, 80)
    singles = first_frames(settled(chunk_duration=1), 6, samples)
    assert first_frames(settled(chunk_duration=1, batch_size=3, gradient_accumulation=2), 4, samples) == singles
    assert first_frames(settled(chunk_duration=1, seed=1), 6, samples) != singles


def test_songs_shorter_than_the_crop_stay_whole() -> None:
    assert [crop_frames(frames, settled(chunk_duration=1.2)) for frames in (20, 30, 31)] == [20, 30, 30]
    assert crop_frames(31, CONFIG) == 31


def coverage(samples: tuple[Sample, ...], config: ResolvedConfig, epochs: int) -> list[Tensor]:
    """Number of draws of each frame of each song."""
    counts = [torch.zeros(len(sample.latents_TC)) for sample in samples]
    steps = epochs * len(samples) // config.samples_per_step
    for start in first_frames(config, steps, samples).values():
        number, frame = divmod(start, 1000)
        counts[number][frame:frame + config.chunk_frames] += 1
    return counts


def test_crops_cover_every_frame() -> None:
    epochs, samples = 40, songs(100, 260, 999, 61)
    for counts in coverage(samples, settled(chunk_duration=2), epochs):
        average = epochs * 50 / len(counts)
        assert average / 2 - COVERED < float(counts.min()) <= float(counts.max()) < 1.5 * average + COVERED


def test_crops_start_at_codes() -> None:
    samples = songs(103, 80)
    for mode in ("codes", "mixed"):
        starts = first_frames(settled(chunk_duration=1, context_mode=mode), 30, samples).values()
        assert {start % 5 for start in starts} == {0}
    assert len({start % 5 for start in first_frames(settled(chunk_duration=1), 30, samples).values()}) == 5


def test_heldout_batch_is_a_crop() -> None:
    batch = single(song(0, 61), 18, SILENT, settled(chunk_duration=1))
    assert batch.x0_BTC[0, :, 0].tolist() == list(range(18, 43))
    assert torch.equal(batch.context_BTC[0, :, :64], SILENT[:25])
    assert single(song(0, 61), 0, SILENT, settled()).x0_BTC.shape[1] == 61


# The steps of a run by epochs


def test_last_step_takes_the_rest() -> None:
    config = settled(epochs=3, gradient_accumulation=4)
    steps = config.total_steps(5)
    assert steps == 4
    assert [list(draws_of_step(config, 5, step)) for step in range(steps)] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14]]
    made = all_batches(songs(30, 30, 20, 30, 20), config, steps)
    assert sorted(draw for batch in made for draw in batch.draws) == list(range(15))
    numbers = [number for batch in made for number in song_numbers(batch)]
    assert sorted(numbers) == sorted([0, 1, 2, 3, 4] * 3)


def test_max_steps_are_full_steps() -> None:
    config = settled(max_steps=4, gradient_accumulation=4)
    assert [len(draws_of_step(config, 5, step)) for step in range(4)] == [4] * 4


# Conditions and context


DRAWS = 2000


def per_draw(samples: tuple[Sample, ...], config: ResolvedConfig) -> dict[int, tuple[int, float, float]]:
    """Draw -> its song, first value of its condition, first value of its context."""
    found = {}
    for batch in batches(samples, SILENT, replace(config, gradient_accumulation=DRAWS), 0):
        for draw, number, condition_SD, context_TC in zip(batch.draws, song_numbers(batch), conditions(batch),
                                                           batch.context_BTC, strict=True):
            found[draw] = (number, float(condition_SD[0, 0]), float(context_TC[0, 0]))
    return found


def share(hits: Iterable[bool]) -> float:
    return float(torch.tensor(list(hits)).float().mean())


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.0])
def test_genres_appear_at_their_ratio(ratio: float) -> None:
    four_standard_errors = 4 * (ratio * (1 - ratio) / DRAWS) ** 0.5
    seen = per_draw((song(1), song(2)), settled(genre_ratio=ratio))
    assert all(condition in (number, -number) for number, condition, _ in seen.values())
    found = share(condition < 0 for _, condition, _ in seen.values())
    assert abs(found - ratio) <= four_standard_errors
    assert abs(found - ratio - 0.06) > four_standard_errors
    wider = per_draw((song(1), song(2)), settled(genre_ratio=min(1.0, ratio + 0.1), batch_size=3))
    assert all(wider[draw][1] < 0 for draw in seen if seen[draw][1] < 0), (
        "a wider ratio must keep the genres of a narrower one")


def test_missing_genre_keeps_caption() -> None:
    samples = (song(1), replace(song(2), genre_SD=None))
    seen = per_draw(samples, settled(genre_ratio=1.0))
    assert {(number, condition) for number, condition, _ in seen.values()} == {(1, -1), (2, 2)}


@pytest.mark.parametrize(("mode", "ratio", "expected"), [("silence", 0.5, 0.0), ("mixed", 0.3, 0.3),
                                                         ("mixed", 0.8, 0.8), ("codes", 0.3, 1.0)])
def test_codes_appear_at_their_ratio(mode: Any, ratio: float, expected: float) -> None:
    four_standard_errors = 4 * (expected * (1 - expected) / DRAWS) ** 0.5
    seen = per_draw((song(1), song(2)), settled(context_mode=mode, codes_ratio=ratio))
    found = share(context == -1000 * number for number, _, context in seen.values())
    assert abs(found - expected) <= four_standard_errors
    assert abs(found - expected - 0.06) > four_standard_errors


def test_genres_and_codes_are_independent() -> None:
    config = settled(context_mode="mixed", codes_ratio=0.5, genre_ratio=0.5)
    seen = per_draw((song(1), song(2)), config)
    both = share(condition < 0 and context < -500 for _, condition, context in seen.values())
    assert abs(both - 0.25) < 4 * (0.25 * 0.75 / DRAWS) ** 0.5


def test_crop_codes_match_crop_frames() -> None:
    config = settled(context_mode="codes", chunk_duration=1, batch_size=2)
    for batch in all_batches(songs(60, 80), config, 10):
        assert torch.equal(batch.context_BTC[:, :, :64], -batch.x0_BTC)
        assert torch.equal(batch.context_BTC[:, :, 64:], torch.ones_like(batch.x0_BTC))


def test_heldout_batch_uses_the_caption() -> None:
    for mode in ("silence", "mixed", "codes"):
        batch = single(song(3, 61), 0, SILENT, settled(genre_ratio=1.0, context_mode=mode, codes_ratio=1.0))
        assert (batch.condition_1ND == 3).all()
        expected = -batch.x0_BTC[0] if mode == "codes" else SILENT[:61]
        assert torch.equal(batch.context_BTC[0, :, :64], expected)


# Onto the device


def test_latents_stay_float32() -> None:
    batch = next(batches(songs(30), SILENT, settled(), 0)).to(torch.device("cpu"), torch.bfloat16)
    assert batch.x0_BTC.dtype == torch.float32
    assert batch.condition_1ND.dtype == batch.context_BTC.dtype == torch.bfloat16


def captions_drawn(samples: tuple[Sample, ...], config: ResolvedConfig, draws: int) -> dict[str, list[float]]:
    """Mark of the condition of each of a sample's draws, in their order."""
    marks: dict[str, list[float]] = {sample.name: [] for sample in samples}
    for step in range(draws):
        for batch in batches(samples, SILENT, config, step):
            for sample, condition_SD in zip(batch.x0_BTC, conditions(batch), strict=True):
                name = next(one.name for one in samples if float(one.latents_TC[0, 0]) == float(sample[0, 0]))
                marks[name].append(float(condition_SD[0, 0]))
    return marks


def test_captions_take_turns() -> None:
    """Each of a song's captions once in three of its draws, in an order of its own."""
    plain = (song(1, 20), song(2, 20))
    several = tuple(replace(one, variants_SD=(one.condition_SD + 100, one.condition_SD + 200)) for one in plain)
    config = settled(gradient_accumulation=2)
    found = captions_drawn(several, config, 30)
    assert found == captions_drawn(several, config, 30)
    for one in plain:
        own = float(one.condition_SD[0, 0])
        turns = [found[one.name][first:first + 3] for first in range(0, 30, 3)]
        assert all(sorted(turn) == [own, own + 100, own + 200] for turn in turns)
        assert len({tuple(turn) for turn in turns}) > 2
    orders = [[mark - float(one.condition_SD[0, 0]) for mark in found[one.name]] for one in plain]
    assert orders[0] != orders[1]
    assert captions_drawn(several, replace(config, seed=7), 30) != found
    assert {*captions_drawn(plain, config, 30)["song1.wav"]} == {float(plain[0].condition_SD[0, 0])}


def test_measurements_have_the_first_caption() -> None:
    several = replace(song(3, 20), variants_SD=(song(3, 20).condition_SD + 100,))
    assert torch.equal(single(several, 0, SILENT, settled()).condition_1ND,
                       single(song(3, 20), 0, SILENT, settled()).condition_1ND)
