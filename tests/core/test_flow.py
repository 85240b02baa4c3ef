"""The mathematics of flow matching, and randomness that is a pure function of its name."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sidestep_core import flow
from sidestep_core.flow import TimestepLaw
from tests.tolerance import FP32, PERTURBED, SAMPLED, deviation

DRAWS = 20_000
OFFICIAL_QUANTILES = {0.05: 0.24, 0.5: 0.54, 0.95: 0.83}
"""Of the model's own law, to two digits."""
OFFICIAL_MEAN = 0.534

identities = st.lists(st.integers(-5, 5) | st.text("abc ,'", max_size=3), max_size=4).map(tuple)


def quantile(law: TimestepLaw, share: float) -> float:
    """Exact: the larger of two independent draws is below t with the square of the chance that one is."""
    return 1 / (1 + math.exp(-NormalDist(law.mu, law.sigma).inv_cdf(math.sqrt(share))))


def worst_quantile(times: Tensor, law: TimestepLaw) -> float:
    """How far any quantile of drawn times is from the law's."""
    shares = torch.linspace(0.05, 0.95, 19)
    expected = torch.tensor([quantile(law, float(share)) for share in shares])
    return float((times.quantile(shares) - expected).abs().max())


def pair(frames: int = 7) -> tuple[Tensor, Tensor]:
    """A recording and noise."""
    random = flow.generator("test")
    return torch.randn(3, frames, 64, generator=random), torch.randn(3, frames, 64, generator=random)


@pytest.mark.parametrize("law", [TimestepLaw(), TimestepLaw(mu=0.0, sigma=1.0), TimestepLaw(mu=-1.2, sigma=0.5)])
def test_times_follow_the_larger_of_two_draws(law: TimestepLaw) -> None:
    times = flow.sample_times(law, DRAWS, flow.generator("times"))
    assert times.dtype == torch.float32
    assert times.shape == (DRAWS,)
    assert ((times > 0) & (times < 1)).all()
    assert worst_quantile(times, law) < SAMPLED


def test_a_single_draw_is_another_law() -> None:
    law = TimestepLaw()
    single = torch.sigmoid(torch.randn(DRAWS, generator=flow.generator("times")) * law.sigma + law.mu)
    assert worst_quantile(single, law) > 10 * SAMPLED


def test_the_default_law_is_the_models_own() -> None:
    times = flow.sample_times(TimestepLaw(), DRAWS, flow.generator("times"))
    for share, expected in OFFICIAL_QUANTILES.items():
        assert abs(float(times.quantile(share)) - expected) < SAMPLED
    assert abs(float(times.mean()) - OFFICIAL_MEAN) < SAMPLED


@given(time=st.floats(0, 1, width=32))
@settings(max_examples=50, deadline=None, derandomize=True, database=None)
def test_the_path_is_a_straight_line_along_the_velocity(time: float) -> None:
    x0, noise = pair()
    t_B = torch.full((3,), time)
    x_t, velocity = flow.interpolate(x0, noise, t_B), flow.velocity(x0, noise)
    assert deviation(x_t + (1 - time) * velocity, noise) < FP32
    assert deviation(x_t - time * velocity, x0) < FP32


def test_another_time_is_off_the_line() -> None:
    x0, noise = pair()
    x_t, velocity = flow.interpolate(x0, noise, torch.full((3,), 0.4)), flow.velocity(x0, noise)
    assert deviation(x_t - (0.4 + PERTURBED) * velocity, x0) > FP32


def test_the_path_begins_at_the_recording_and_ends_in_noise() -> None:
    x0, noise = pair()
    assert torch.equal(flow.interpolate(x0, noise, torch.zeros(3)), x0)
    assert torch.equal(flow.interpolate(x0, noise, torch.ones(3)), noise)


def test_every_sample_has_its_own_time() -> None:
    x0, noise = pair()
    together = flow.interpolate(x0, noise, torch.tensor([0.1, 0.5, 0.9]))
    for index, time in enumerate((0.1, 0.5, 0.9)):
        alone = flow.interpolate(x0[index:index + 1], noise[index:index + 1], torch.tensor([time]))
        assert torch.equal(together[index:index + 1], alone)


@given(one=identities, other=identities)
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_draws_depend_on_every_part_of_their_name(one: tuple[int | str, ...], other: tuple[int | str, ...]) -> None:
    assert (flow.seed(*one) == flow.seed(*other)) == (one == other)
    assert 0 <= flow.seed(*one) < 2**63


@pytest.mark.parametrize("other", [(43, "visit", 7), (42, "crop", 7), (42, "visit", 8), (42, 7, "visit"), (42, "visit"),
                                   (42, "visit", "7"), (42, "visit", 7, 0), (42, "visit7")])
def test_other_names_draw_other_numbers(other: tuple[int | str, ...]) -> None:
    same = torch.randn(8, generator=flow.generator(42, "visit", 7))
    assert torch.equal(same, torch.randn(8, generator=flow.generator(42, "visit", 7)))
    assert not torch.equal(same, torch.randn(8, generator=flow.generator(*other)))


def test_names_mean_the_same_numbers_for_ever() -> None:
    """A run that was stopped under another version of Python or of this package goes on with the same draws."""
    assert flow.seed(42, "visit", 7) == 5967694887128465440


def test_draws_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    random = flow.generator("test")
    flow.sample_times(TimestepLaw(), 4, random)
    flow.noise_like(torch.zeros(1, 4, 64), random)
    flow.drop_conditions(4, 0.5, random)
    flow.crop_start(100, 10, random)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_standard_normal() -> None:
    noise = flow.noise_like(torch.zeros(4, 100, 64), flow.generator("noise"))
    shares = torch.tensor([0.05, 0.5, 0.95])
    expected = torch.tensor([NormalDist().inv_cdf(float(share)) for share in shares])
    assert noise.shape == (4, 100, 64)
    assert (noise.flatten().quantile(shares) - expected).abs().max() < 3 * SAMPLED


@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.5, 1.0])
def test_conditions_are_dropped_at_the_rate_asked(ratio: float) -> None:
    dropped = flow.drop_conditions(DRAWS, ratio, flow.generator("drop"))
    assert dropped.dtype == torch.bool
    assert abs(float(dropped.float().mean()) - ratio) < (SAMPLED if 0 < ratio < 1 else 1e-12)


@given(frames=st.integers(1, 60), window=st.integers(1, 60), name=st.integers(0, 1000))
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
def test_windows_lie_inside_the_song(frames: int, window: int, name: int) -> None:
    start = flow.crop_start(frames, window, flow.generator(name))
    assert start == 0 if frames <= window else 0 <= start <= frames - window


def test_every_window_is_equally_likely() -> None:
    random = flow.generator("crop")
    starts = torch.tensor([flow.crop_start(9, 5, random) for _ in range(DRAWS)])
    shares = starts.bincount() / DRAWS
    assert len(shares) == 5
    assert (shares - 1 / 5).abs().max() < SAMPLED


def test_the_loss_is_the_mean_square_of_each_sample() -> None:
    predicted, target = pair()
    losses = flow.loss_per_sample(predicted, target)
    by_hand = torch.stack([sum((p - t) ** 2 for p, t in zip(one.flatten(), other.flatten(), strict=True)) / one.numel()
                           for one, other in zip(predicted, target, strict=True)])
    assert deviation(losses, by_hand) < FP32
    assert deviation(flow.loss_per_sample(predicted * (1 + PERTURBED), target), by_hand) > FP32


def test_the_loss_is_computed_in_float32() -> None:
    predicted, target = (tensor.bfloat16() for tensor in pair())
    losses = flow.loss_per_sample(predicted, target)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, flow.loss_per_sample(predicted.float(), target.float()))


def test_the_context_is_the_source_and_a_mask_that_asks_for_everything() -> None:
    source, _ = pair()
    context = flow.context_latents(source)
    assert torch.equal(context[..., :64], source)
    assert torch.equal(context[..., 64:], torch.ones_like(source))
