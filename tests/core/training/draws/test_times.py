"""Times are spread evenly over a step and over a song, and keep their distribution."""

from __future__ import annotations

import torch

from sidestep_core import rng
from sidestep_core.model import flow_matching
from sidestep_core.model.flow_matching import TimestepDistribution
from sidestep_core.training.draws import times
from tests.tolerance import SAMPLED

SONGS = [f"song{number}.wav" for number in range(12)]
SEEDS = 2000


def steps(seed: int, count: int, size: int = 4) -> list[list[tuple[str, int]]]:
    """Draws of steps of `size` songs, each epoch in another order."""
    drawn = []
    for epoch in range(-(-count * size // len(SONGS))):
        order = torch.randperm(len(SONGS), generator=rng.generator(seed, "order", epoch)).tolist()
        drawn += [(SONGS[index], epoch) for index in order]
    return [drawn[size * step:size * (step + 1)] for step in range(count)]


def test_each_draw_has_its_part() -> None:
    for step in steps(0, 50):
        parts = sorted(int(4 * share) for share in times.shares(0, step))
        assert parts == [0, 1, 2, 3]


def test_shares_are_pure_functions() -> None:
    draws = [("a", 3), ("b", 4), ("c", 3)]
    assert times.shares(7, draws) == times.shares(7, draws)
    assert times.shares(7, draws) != times.shares(8, draws)
    by_name = dict(zip(draws, times.shares(7, draws), strict=True))
    turned = dict(zip(draws[::-1], times.shares(7, draws[::-1]), strict=True))
    assert by_name == turned


def worst(shares: list[float]) -> float:
    """Largest deviation of the quantiles from those of uniform numbers."""
    at = torch.linspace(0.05, 0.95, 19)
    return float((torch.tensor(shares).quantile(at) - at).abs().max())


def test_each_share_is_uniform() -> None:
    """Over seeds, so that no song is trained at other times than the others."""
    drawn = [times.shares(seed, [("a", 5), ("b", 5), ("c", 6)]) for seed in range(SEEDS)]
    assert all(worst([shares[place] for shares in drawn]) < 4 * SAMPLED for place in range(3))
    assert worst([min(shares) for shares in drawn]) > 20 * SAMPLED


def test_songs_are_spread_too() -> None:
    """The mean share over ten draws of one song varies less than that of ten independent ones, 1 / 120."""
    means = []
    for seed in range(100):
        placed = [pair for step in steps(seed, 30) for pair in zip(step, times.shares(seed, step), strict=True)]
        own = [share for (song, _), share in placed if song == SONGS[0]]
        means.append(sum(own) / len(own))
    assert float(torch.tensor(means).var()) < 0.5 / 120


def test_step_loss_varies_less() -> None:
    """Mean over a step of four of two shapes of loss over time; as on the planted task of `run.py bench method`."""
    law = TimestepDistribution()
    for loss in (lambda t: t, lambda t: (t - 0.5) ** 2):
        drawn = steps(0, 1000)
        even = torch.tensor([times.shares(0, step) for step in drawn])
        free = flow_matching.sample_times(law, 4000, rng.generator("free")).view(-1, 4)
        spread = [float(loss(t).mean(1).var()) for t in (flow_matching.times_at(law, even), free)]
        assert spread[0] < 0.5 * spread[1]
