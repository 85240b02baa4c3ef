"""Passes of a measurement: within the budget, spread over songs, crops and times, and equal every time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sidestep_core.model.flow_matching import HELDOUT_TIMES, TimestepDistribution, sample_times
from sidestep_core.training.data import Sample
from sidestep_core.training.heldout.passes import BUDGET, MOST_PASSES, PASS_COST, Pass, choose, described
from tests.training import settled

CONTINUOUS, DISCRETE = TimestepDistribution(), TimestepDistribution(mode="discrete")
RUN = {"max_steps": 1000, "gradient_accumulation": 4, "heldout_every": 50}
SPREAD = 0.06
"""Difference of a quantile of twenty passes from that of the distribution."""


def songs(*frames: int) -> tuple[Sample, ...]:
    return tuple(Sample(name=f"{number}.wav", latents_TC=torch.zeros(length, 64), condition_SD=torch.zeros(4, 8))
                 for number, length in enumerate(frames))


def chosen(measured: tuple[Sample, ...], trained: tuple[Sample, ...], distribution: TimestepDistribution = CONTINUOUS,
           **values: Any) -> tuple[Pass, ...]:
    return choose(measured, trained, settled(**(RUN | values)), distribution)


@pytest.mark.parametrize("values", [{}, {"chunk_duration": 10}, {"heldout_every": 7}, {"max_steps": 45},
                                    {"epochs": 3}, {"batch_size": 2, "heldout_every": 33}])
@pytest.mark.parametrize("count", [10, 100])
def test_measuring_keeps_its_budget(values: dict[str, Any], count: int) -> None:
    trained, measured = songs(*[250, 600, 1500] * count), songs(*[1400, 200] * (count // 4))
    config = settled(**(RUN | values))
    found = choose(measured, trained, config, CONTINUOUS)
    lengths = [min(sample.latents_TC.shape[0], config.chunk_frames or 10**9) for sample in (*trained, *measured)]
    mean = sum(lengths[:len(trained)]) / len(trained)
    steps = config.total_steps(len(trained))
    times = len({0, *range(0, steps, config.heldout_every), steps})
    cost = times * sum(min(one.sample.latents_TC.shape[0], config.chunk_frames or 10**9) for one in found) * PASS_COST
    share = cost / (steps * config.samples_per_step * mean)
    assert share <= BUDGET or len(found) == 1
    assert share > BUDGET / 2 or len(found) == MOST_PASSES


def test_passes_are_bounded() -> None:
    assert len(chosen(songs(100), songs(100), max_steps=4)) == 1
    assert len(chosen(songs(100), songs(100), max_steps=100_000, heldout_every=50_000)) == MOST_PASSES


def test_passes_spread_over_songs() -> None:
    found = chosen(songs(*[100] * 7), songs(*[100] * 50))
    counts = [sum(one.sample.name == f"{number}.wav" for one in found) for number in range(7)]
    assert len(found) == 19
    assert max(counts) - min(counts) == 1
    assert len({one.noise for one in found}) == len(found)


def test_passes_spread_over_crops() -> None:
    found = chosen(songs(3000), songs(3000), chunk_duration=10)
    starts = sorted(one.start for one in found)
    assert len(set(starts)) > 15
    assert (starts[0], starts[-1]) == (pytest.approx(0, abs=250), pytest.approx(2750, abs=250))
    assert max(later - earlier for earlier, later in zip(starts, starts[1:], strict=False)) < 500
    codes = chosen(songs(3001), songs(3000), chunk_duration=10, context_mode="codes")
    assert {one.start % 5 for one in codes} == {0}


def test_times_follow_the_distribution() -> None:
    times = torch.tensor([one.time for one in chosen(songs(100), songs(100))])
    drawn = sample_times(CONTINUOUS, 200_000, torch.Generator().manual_seed(0))
    shares = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    expected = drawn.quantile(shares)
    assert (times.quantile(shares) - expected).abs().max() < SPREAD
    assert (torch.tensor(HELDOUT_TIMES).quantile(shares) - expected).abs().max() > SPREAD
    table = set(sample_times(DISCRETE, 2000, torch.Generator().manual_seed(0)).tolist())
    turbo = [one.time for one in chosen(songs(100), songs(100), DISCRETE)]
    assert set(turbo) == table
    assert max(map(turbo.count, table)) <= 4


def test_longer_runs_begin_with_the_same_passes() -> None:
    def kept(**values: Any) -> list[tuple[str, int, float, str]]:
        found = chosen(songs(*[100] * 5), songs(*[100] * 9), **values)
        return [(one.sample.name, one.start, one.time, one.noise) for one in found]

    few, many = kept(heldout_every=20), kept(heldout_every=80)
    assert len(few) < len(many)
    assert few == many[:len(few)]
    assert few != kept(heldout_every=20, seed=1)


def test_passes_are_described() -> None:
    config = settled(**RUN, chunk_duration=2)
    found = chosen(songs(100), songs(100), chunk_duration=2)
    first = next(described(found, config))
    assert first == {"song": "0.wav", "start": found[0].start / 25, "seconds": 2.0, "time": found[0].time}
