"""Flow matching follows its formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sidestep_core import rng
from sidestep_core.model import flow_matching
from sidestep_core.model.flow_matching import TimestepDistribution
from tests.tolerance import COVERED, FP32, PERTURBED, SAMPLED, deviation

DRAWS = 20_000
KNOWN_QUANTILES = {"continuous": {0.05: 0.24, 0.5: 0.54, 0.95: 0.83},
                   "logit_normal": {0.05: 0.115, 0.5: 0.40, 0.95: 0.776}}
"""With the model's own mu and sigma, as measured on the official code."""
KNOWN_MEANS = {"continuous": 0.534, "logit_normal": 0.416}
TABLES = {1: (1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8),
          2: (1, 14 / 15, 6 / 7, 10 / 13, 2 / 3, 6 / 11, 2 / 5, 2 / 9),
          3: (1, 21 / 22, 9 / 10, 5 / 6, 3 / 4, 9 / 14, 1 / 2, 3 / 10)}
"""Times of turbo's sampler, exact."""


def quantile(distribution: TimestepDistribution, share: float) -> float:
    """Compute an exact quantile: the larger of two draws is below t with the square of the probability of one."""
    of_one = math.sqrt(share) if distribution.mode == "continuous" else share
    return 1 / (1 + math.exp(-NormalDist(distribution.mu, distribution.sigma).inv_cdf(of_one)))


def worst_quantile(times: Tensor, distribution: TimestepDistribution) -> float:
    """Return the largest deviation of a quantile of drawn times from the distribution's."""
    shares = torch.linspace(0.05, 0.95, 19)
    expected = torch.tensor([quantile(distribution, float(share)) for share in shares])
    return float((times.quantile(shares) - expected).abs().max())


def pair(frames: int = 7) -> tuple[Tensor, Tensor]:
    """Draw a recording and noise."""
    random = rng.generator("test")
    return torch.randn(3, frames, 64, generator=random), torch.randn(3, frames, 64, generator=random)


PRESETS = [TimestepDistribution(mu=mu, sigma=sigma) for mu, sigma in flow_matching.TIMESTEP_PRESETS.values()]
LOGIT_NORMAL = [replace(one, mode=mode)
                for one in (TimestepDistribution(), TimestepDistribution(mu=-1.2, sigma=0.5), *PRESETS)
                for mode in ("continuous", "logit_normal")]


@pytest.mark.parametrize("distribution", LOGIT_NORMAL, ids=str)
def test_times_follow_their_distribution(distribution: TimestepDistribution) -> None:
    times = flow_matching.sample_times(distribution, DRAWS, rng.generator("times"))
    assert times.dtype == torch.float32
    assert times.shape == (DRAWS,)
    assert ((times > 0) & (times < 1)).all()
    assert worst_quantile(times, distribution) < SAMPLED
    for other in LOGIT_NORMAL:
        if other != distribution:
            assert worst_quantile(times, other) > SAMPLED, f"{other} is not distinguished from {distribution}"


@pytest.mark.parametrize("mode", ["continuous", "logit_normal"])
def test_distributions_match_known_quantiles(mode: Literal["continuous", "logit_normal"]) -> None:
    times = flow_matching.sample_times(TimestepDistribution(mode=mode), DRAWS, rng.generator("times"))
    for share, expected in KNOWN_QUANTILES[mode].items():
        assert abs(float(times.quantile(share)) - expected) < SAMPLED
    assert abs(float(times.mean()) - KNOWN_MEANS[mode]) < SAMPLED


EVERY = [*LOGIT_NORMAL, *(TimestepDistribution(mode=mode, shifts=shifts) for mode in ("discrete", "sampler")
                          for shifts in ((1,), (3,), (1, 2, 3)))]  # fmt: skip


@pytest.mark.parametrize("distribution", EVERY, ids=str)
def test_even_shares_keep_the_distribution(distribution: TimestepDistribution) -> None:
    """Compares cumulative distributions."""
    shares = (torch.arange(DRAWS, dtype=torch.float64) + 0.5) / DRAWS
    even = flow_matching.times_at(distribution, shares)
    assert even.dtype == torch.float32
    assert (even.diff() >= 0).all()

    def distance(other: TimestepDistribution) -> float:
        drawn = flow_matching.sample_times(other, DRAWS, rng.generator("times")).sort().values
        at = torch.cat((drawn, even))
        shares = (torch.searchsorted(times, at, right=True) / DRAWS for times in (even, drawn))
        return float((next(shares) - next(shares)).abs().max())

    assert distance(distribution) < SAMPLED
    assert min(distance(other) for other in EVERY if other != distribution) > SAMPLED


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_sampler_times_contain_the_discrete(shift: int) -> None:
    """The times of eight steps are every eighth of the law: a sampler of many steps has the same density."""
    found = flow_matching.times_at(TimestepDistribution(mode="sampler", shifts=(shift,)), torch.arange(1, 9) / 8)
    assert found.tolist() == pytest.approx(TABLES[shift][::-1], rel=1e-6)


def test_sampler_reaches_where_turbo_works() -> None:
    """Turbo at shift 3 takes three of its eight steps at 0.9 or above; the model's own law is hardly ever there."""
    above = {mode: float((flow_matching.sample_times(TimestepDistribution(mode=mode), DRAWS, rng.generator("high"))
                          >= 0.9).float().mean()) for mode in ("continuous", "sampler", "discrete")}
    assert above["continuous"] < 0.02
    assert abs(above["sampler"] - 0.25) < SAMPLED
    assert abs(above["discrete"] - 3 / 8) < SAMPLED


def test_default_distribution_is_the_models() -> None:
    assert TimestepDistribution() == TimestepDistribution(mode="continuous", mu=-0.4, sigma=1.0)


def test_timestep_presets_match_side_step() -> None:
    assert flow_matching.TIMESTEP_PRESETS == {"detail": (-0.8, 0.8), "structure": (0, 0.8), "wide": (-0.4, 1.4),
                                     "tight": (-0.2, 0.7)}


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_discrete_times_match_turbo(shift: int) -> None:
    assert flow_matching.discrete_times(shift) == pytest.approx(TABLES[shift], rel=1e-15)
    assert flow_matching.discrete_times(shift)[0] == 1


def shares_of(distribution: TimestepDistribution) -> dict[float, float]:
    times = flow_matching.sample_times(distribution, DRAWS, rng.generator("discrete"))
    values, counts = times.unique(return_counts=True)
    return dict(zip(values.tolist(), (counts / DRAWS).tolist(), strict=True))


def expected_shares(*shifts: int) -> dict[float, float]:
    expected: dict[float, float] = {}
    for shift in shifts:
        for time in torch.tensor(TABLES[shift]).tolist():
            expected[time] = expected.get(time, 0) + 1 / 8 / len(shifts)
    return expected


@pytest.mark.parametrize("shifts", [(1,), (2,), (3,), (1, 2, 3)])
def test_discrete_times_are_equally_likely(shifts: tuple[int, ...]) -> None:
    found, expected = shares_of(TimestepDistribution(mode="discrete", shifts=shifts)), expected_shares(*shifts)
    assert found.keys() == expected.keys()
    assert max(abs(found[time] - expected[time]) for time in expected) < SAMPLED
    assert found.keys() != expected_shares(*{1, 2, 3} - set(shifts)).keys()


def test_uneven_discrete_draws_are_detected() -> None:
    expected = expected_shares(3)
    # The last step as often as in a schedule that takes it twice.
    draws = torch.randint(9, (DRAWS,), generator=rng.generator("uneven"))
    uneven = torch.tensor(TABLES[3])[draws.clamp(max=7)]
    found = {time: float((uneven == time).float().mean()) for time in expected}
    assert max(abs(found[time] - expected[time]) for time in expected) > 5 * SAMPLED


TIMES = torch.linspace(0.001, 1, 500)


@pytest.mark.parametrize("gamma", [1.0, 5.0, 10.0])
def test_loss_weights_match_formulas(gamma: float) -> None:
    t = TIMES.double()
    snr = ((1 - t) / t) ** 2
    by_hand = {"none": torch.ones_like(t), "min_snr": snr.clamp(max=gamma) / snr,
               "min_snr_flow": t**2 * snr.clamp(max=gamma)}
    by_hand["min_snr"][-1] = 1
    for weighting, expected in by_hand.items():
        found = flow_matching.loss_weights(TIMES, weighting, gamma)
        assert found.dtype == torch.float32
        assert deviation(found, expected) < FP32
        others = [other for other in by_hand if other != weighting]
        assert all(deviation(found, by_hand[other]) > PERTURBED for other in others)


def test_min_snr_damps_clean_times() -> None:
    weights = flow_matching.loss_weights(TIMES, "min_snr", 5.0)
    boundary = 1 / (1 + math.sqrt(5))
    assert (weights[TIMES > boundary + 1e-6] == 1).all()
    assert (weights[TIMES < boundary - 1e-6] < 1).all()
    assert (weights.diff() >= 0).all()


def test_min_snr_flow_weights_recording_error() -> None:
    """The error of x0 is t times that of the velocity; min(SNR, gamma) weighs its square."""
    x0, noise = pair()
    t_B = torch.tensor([0.2, 0.5, 0.8])
    t = t_B[:, None, None]
    predicted = torch.randn(x0.shape, generator=rng.generator("predicted"))
    error = flow_matching.interpolate(x0, noise, t_B) - t * predicted - x0
    by_recording = error.square().mean(dim=(1, 2)) * ((1 - t_B) / t_B).square().clamp(max=5)
    loss = flow_matching.loss_per_sample(predicted, flow_matching.velocity(x0, noise))
    assert deviation(loss * flow_matching.loss_weights(t_B, "min_snr_flow", 5.0), by_recording) < FP32
    assert deviation(loss * flow_matching.loss_weights(t_B, "min_snr", 5.0), by_recording) > PERTURBED


@pytest.mark.parametrize("weighting", ["none", "min_snr", "min_snr_flow"])
def test_loss_weights_are_finite(weighting: Any) -> None:
    ends = flow_matching.loss_weights(torch.tensor([0.0, 1e-30, 1.0]), weighting, 5.0)
    assert ends.tolist() == {"none": [1, 1, 1], "min_snr": [0, 0, 1], "min_snr_flow": [0, 0, 0]}[weighting]


@given(time=st.floats(0, 1, width=32))
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_path_is_straight(time: float) -> None:
    x0, noise = pair()
    t_B = torch.full((3,), time)
    x_t, velocity = flow_matching.interpolate(x0, noise, t_B), flow_matching.velocity(x0, noise)
    assert deviation(x_t + (1 - time) * velocity, noise) < FP32
    assert deviation(x_t - time * velocity, x0) < FP32


def test_other_time_is_off_path() -> None:
    x0, noise = pair()
    x_t, velocity = flow_matching.interpolate(x0, noise, torch.full((3,), 0.4)), flow_matching.velocity(x0, noise)
    assert deviation(x_t - (0.4 + PERTURBED) * velocity, x0) > FP32


def test_path_ends_at_noise() -> None:
    x0, noise = pair()
    assert torch.equal(flow_matching.interpolate(x0, noise, torch.zeros(3)), x0)
    assert torch.equal(flow_matching.interpolate(x0, noise, torch.ones(3)), noise)


def test_samples_have_own_times() -> None:
    x0, noise = pair()
    together = flow_matching.interpolate(x0, noise, torch.tensor([0.1, 0.5, 0.9]))
    for index, time in enumerate((0.1, 0.5, 0.9)):
        alone = flow_matching.interpolate(x0[index:index + 1], noise[index:index + 1], torch.tensor([time]))
        assert torch.equal(together[index:index + 1], alone)


def test_global_generator_is_untouched() -> None:
    before = torch.get_rng_state()
    random = rng.generator("test")
    flow_matching.sample_times(TimestepDistribution(), 4, random)
    flow_matching.noise_like(torch.zeros(1, 4, 64), random)
    flow_matching.drop_conditions(4, 0.5, random)
    rng.bernoulli(0.5, "name")
    flow_matching.crop_start(100, 10, 3, 17)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_standard_normal() -> None:
    noise = flow_matching.noise_like(torch.zeros(4, 100, 64), rng.generator("noise"))
    shares = torch.tensor([0.05, 0.5, 0.95])
    expected = torch.tensor([NormalDist().inv_cdf(float(share)) for share in shares])
    assert noise.shape == (4, 100, 64)
    assert (noise.flatten().quantile(shares) - expected).abs().max() < 3 * SAMPLED


@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.5, 1.0])
def test_conditions_drop_at_ratio(ratio: float) -> None:
    dropped = flow_matching.drop_conditions(DRAWS, ratio, rng.generator("drop"))
    assert dropped.dtype == torch.bool
    assert abs(float(dropped.float().mean()) - ratio) < (SAMPLED if 0 < ratio < 1 else 1e-12)


@given(frames=st.integers(1, 60), crop=st.integers(1, 60), draw=st.integers(0, 10**9), offset=st.integers(0, 2**63),
       grid=st.sampled_from([1, 5]))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_crops_lie_on_grid(frames: int, crop: int, draw: int, offset: int, grid: int) -> None:
    start = flow_matching.crop_start(frames, crop, draw, offset, grid)
    assert start == 0 if frames <= crop else 0 <= start <= frames - crop
    assert start % grid == 0


def crops_per_frame(starts: list[int], frames: int, crop: int) -> Tensor:
    """Count the crops that contain each frame."""
    counts = torch.zeros(frames)
    for start in starts:
        counts[start:start + crop] += 1
    return counts


def worst_coverage(starts: list[int], frames: int, crop: int) -> float:
    """Return the largest excess of a frame's count over half to one and a half of the average."""
    counts, average = crops_per_frame(starts, frames, crop), len(starts) * crop / frames
    return float(torch.maximum(average / 2 - counts, counts - 1.5 * average).max())


SONGS = [(6000, 1500), (6000, 250), (1501, 1500), (2000, 1500), (4321, 1000)]
"""(frames, crop): long and short crops, and songs hardly longer than theirs."""


@pytest.mark.parametrize("draws", [10, 50, 333])
@pytest.mark.parametrize(("frames", "crop"), SONGS)
def test_crops_cover_songs_evenly(frames: int, crop: int, draws: int) -> None:
    for offset in (0, 2**62, rng.seed("song")):
        starts = [flow_matching.crop_start(frames, crop, draw, offset) for draw in range(draws)]
        assert worst_coverage(starts, frames, crop) < COVERED
        assert len(set(starts)) > 1


@pytest.mark.parametrize(("frames", "crop"), SONGS[:2] + SONGS[3:])
def test_random_crops_miss_the_ends(frames: int, crop: int) -> None:
    random = rng.generator("crop")
    starts = torch.randint(frames - crop + 1, (333,), generator=random).tolist()
    assert worst_coverage(starts, frames, crop) > COVERED


def test_inner_frames_are_drawn_equally() -> None:
    starts = [flow_matching.crop_start(6000, 1000, draw, 7) for draw in range(600)]
    inside = crops_per_frame(starts, 6000, 1000)[1000:-1000]
    assert (inside - 100).abs().max() <= COVERED
    random = torch.randint(5001, (600,), generator=rng.generator("crop")).tolist()
    assert (crops_per_frame(random, 6000, 1000)[1000:-1000] - 100).abs().max() > COVERED


def test_aligned_crops_reach_the_end() -> None:
    starts = [flow_matching.crop_start(6003, 1500, draw, 7, 5) for draw in range(200)]
    counts = crops_per_frame(starts, 6003, 1500)
    assert (counts == 0).nonzero().flatten().tolist() == [6000, 6001, 6002]


def test_songs_have_own_crops() -> None:
    def starts(offset: int) -> list[int]:
        return [flow_matching.crop_start(6000, 1500, draw, offset) for draw in range(20)]

    assert starts(1) == starts(1)
    assert starts(rng.seed("one")) != starts(rng.seed("other"))


def test_loss_is_mean_square() -> None:
    predicted, target = pair()
    losses = flow_matching.loss_per_sample(predicted, target)
    by_hand = torch.stack([sum((p - t) ** 2 for p, t in zip(one.flatten(), other.flatten(), strict=True)) / one.numel()
                           for one, other in zip(predicted, target, strict=True)])
    assert deviation(losses, by_hand) < FP32
    assert deviation(flow_matching.loss_per_sample(predicted * (1 + PERTURBED), target), by_hand) > FP32


def test_loss_is_float32() -> None:
    predicted, target = (tensor.bfloat16() for tensor in pair())
    losses = flow_matching.loss_per_sample(predicted, target)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, flow_matching.loss_per_sample(predicted.float(), target.float()))


def test_context_has_full_mask() -> None:
    source, _ = pair()
    context = flow_matching.context_latents(source)
    assert torch.equal(context[..., :64], source)
    assert torch.equal(context[..., 64:], torch.ones_like(source))
