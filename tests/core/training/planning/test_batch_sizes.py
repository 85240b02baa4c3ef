"""The largest batches, against those that steps really have."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core.training import batches
from sidestep_core.training.config import ResolvedConfig
from sidestep_core.training.planning.batch_sizes import BatchSize, Drawn, batch_sizes
from tests.training import settled


def drawn(*lengths: int, repeats: int = 1) -> list[Drawn]:
    return [Drawn(frames=frames, tokens=10, repeats=repeats) for frames in lengths]


def size(samples: int, frames: int, tokens: int = 10) -> BatchSize:
    return BatchSize(samples=samples, frames=frames, tokens=tokens)


@pytest.mark.parametrize(("songs", "expected"), [
    (drawn(1000, 2000), [size(1, 2000)]),
    (drawn(1000, 1000, 2000), [size(2, 1000), size(1, 2000)]),
    (drawn(*[1000] * 4, *[2000] * 4), [size(2, 2000)]),
    (drawn(500, 2000, repeats=2), [size(2, 2000)]),
    ([*drawn(2000, 2000), Drawn(frames=500, tokens=99, repeats=2)], [size(2, 2000), size(2, 500, 99)]),
])
def test_equal_lengths_share_a_batch(songs: list[Drawn], expected: list[BatchSize]) -> None:
    """Steps of two draws; epochs of an even number of draws begin with a step."""
    if sum(song.repeats for song in songs) % 2 == 0:
        assert batch_sizes(songs, settled(batch_size=2, gradient_accumulation=1)) == expected
    else:
        longest = max(song.frames for song in songs)
        assert batch_sizes(songs, settled(batch_size=2, gradient_accumulation=1)) == [size(2, longest)]
        assert batch_sizes(songs, settled(batch_size=2, gradient_accumulation=1, epochs=1, max_steps=9)) == expected


def largest_found(lengths: list[int], config: ResolvedConfig, steps: int) -> Counter[int]:
    """Length -> largest number of samples in a batch of the first steps of three trainings."""
    found: Counter[int] = Counter()
    for seed, step in itertools.product(range(3), range(steps)):
        draws = batches.draws_of_step(config, len(lengths), step)
        own = Counter(lengths[batches.shuffled(len(lengths), seed, draw)] for draw in draws)
        found |= Counter({frames: min(count, config.batch_size) for frames, count in own.items()})
    return found


@given(lengths=st.lists(st.sampled_from([20, 30, 40]), min_size=1, max_size=7), batch=st.integers(1, 5),
       accumulation=st.integers(1, 4))
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_no_step_has_a_larger_batch(lengths: list[int], batch: int, accumulation: int) -> None:
    config = settled(batch_size=batch, gradient_accumulation=accumulation)
    sizes = batch_sizes(drawn(*lengths), config)
    found = largest_found(lengths, config, 100)
    assert all(any(each.samples >= count and each.frames >= frames for each in sizes)
               for frames, count in found.items())
    # The bound is reached: it is no full batch of the longest.
    assert {each.samples for each in sizes if each.frames == max(lengths)} >= {found[max(lengths)]}
