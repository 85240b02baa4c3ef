"""Material that is never trained on: chosen by seed and name, and disjoint from what is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core.dataset.sample_info import SampleInfo
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.heldout.material import resolved, section_lengths, split
from tests.tiny import sample_info
from tests.training import settled

LONG = 4500
"""Frames of a song of three minutes."""
CROPS, JUDGED = {"chunk_duration": 60}, {"publish": "best"}


def songs(*frames: int) -> tuple[SampleInfo, ...]:
    return tuple(replace(sample_info(number, length), latents=f"{number}") for number, length in enumerate(frames))


def names(samples: tuple[SampleInfo, ...]) -> list[str]:
    return [sample.name for sample in samples]


@pytest.mark.parametrize("seed", range(5))
def test_sections_are_held_out_together(seed: int) -> None:
    samples = tuple(replace(sample, audio=f"{number // 4}") for number, sample in enumerate(songs(*[5] * 24)))
    trained, heldout = split(samples, settled(heldout_songs=2, seed=seed))
    assert len(heldout) == 8
    assert not {sample.audio for sample in trained} & {sample.audio for sample in heldout}
    assert sorted(names((*trained, *heldout))) == sorted(names(samples))


def test_repeats_leave_heldout_songs_unchanged() -> None:
    plain = songs(*[5] * 10)
    often = tuple(replace(sample, repeats=number + 1) for number, sample in enumerate(plain))
    chosen = [names(split(samples, settled(heldout_songs=2))[1]) for samples in (plain, often)]
    assert chosen[0] == chosen[1]


@given(seed=st.integers(0, 1000), added=st.integers(100, 10**6))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_new_song_keeps_heldout_choice(seed: int, added: int) -> None:
    config, samples, new = settled(heldout_songs=3, seed=seed), songs(*[5] * 10), sample_info(added, 5)
    before = set(names(split(samples, config)[1]))
    assert set(names(split((new, *samples), config)[1])) <= before | {new.name}


def test_seed_changes_heldout_songs() -> None:
    samples = songs(*[5] * 30)
    assert len({tuple(names(split(samples, settled(heldout_songs=3, seed=seed))[1])) for seed in range(5)}) > 1


@pytest.mark.parametrize(("count", "values", "heldout"), [
    (10, {}, (1, False)), (99, CROPS, (9, False)), (10_000, {}, (32, False)),
    (9, {}, (0, False)), (1, {}, (0, False)), (9, CROPS, (0, True)), (1, CROPS, (0, True)),
    (9, {"chunk_duration": 170}, (0, False)), (9, {"chunk_duration": 170} | JUDGED, (0, True)),
    (5, JUDGED, (0, True)), (5, {"early_stopping": 3}, (0, True)), (5, {"target_loss": 0.5}, (0, True)),
    (5, {"heldout_songs": 0} | JUDGED, (0, False)), (5, {"heldout_songs": 2} | CROPS, (2, False)),
])  # fmt: skip
def test_few_songs_give_their_ends(count: int, values: dict[str, Any], heldout: tuple[int, bool]) -> None:
    found = resolved(TrainConfig(**values), songs(*[LONG] * count))
    assert (found["heldout_songs"], found["heldout_sections"]) == heldout


def test_short_songs_are_trained_whole() -> None:
    assert resolved(TrainConfig(publish="best"), songs(499, 300))["heldout_sections"] is False
    trained, heldout = split(songs(499, 500), settled(heldout_sections=True))
    assert [sample.frames for sample in trained] == [499, 450]
    assert [(sample.start, sample.frames) for sample in heldout] == [(450, 50)]


@given(frames=st.lists(st.integers(1, 9000), min_size=1, max_size=9), start=st.integers(0, 100))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_sections_never_overlap_training(frames: list[int], start: int) -> None:
    samples = tuple(replace(sample, start=start) for sample in songs(*frames))
    trained, heldout = split(samples, settled(heldout_sections=True))
    assert names(trained) == names(samples)
    bodies = {sample.name: sample for sample in trained}
    for end in heldout:
        body = bodies.pop(end.name)
        assert (body.start, body.start + body.frames) == (start, end.start)
        assert end.start + end.frames == start + next(one.frames for one in samples if one.name == end.name)
        assert end.frames == pytest.approx((body.frames + end.frames) / 10, abs=0.5)
    assert all(sample.frames < 500 for sample in bodies.values())


def test_overlapping_sections_are_trained_whole() -> None:
    parts = tuple(replace(sample, audio="one file") for sample in songs(LONG, LONG))
    assert section_lengths(parts) == {}
    copies = tuple(replace(sample, latents="same") for sample in parts)
    assert set(section_lengths(copies).values()) == {LONG // 10}
