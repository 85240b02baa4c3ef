"""The learning rate's shape, and an optimizer that steps at that rate."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sidestep_core.config import TrainConfig
from sidestep_core.optimizers import build, learning_rate, warmup_steps
from tests.tolerance import FP32

configs = st.builds(TrainConfig, max_steps=st.integers(1, 3000), warmup_steps=st.integers(0, 5000),
                    schedule=st.sampled_from(["cosine", "constant"]))


def rates(config: TrainConfig) -> list[float]:
    """Relative to the learning rate."""
    return [learning_rate(config, step) / config.learning_rate for step in range(config.max_steps)]


@given(config=configs)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_rates_climb_to_the_top_once_and_never_climb_again(config: TrainConfig) -> None:
    warmup, found = warmup_steps(config), rates(config)
    assert all(0.009 < rate <= 1 for rate in found)
    assert all(first < second for first, second in pairwise(found[:warmup + 1]))
    assert abs(found[warmup] - 1) < FP32
    assert all(first >= second for first, second in pairwise(found[warmup:]))


@pytest.mark.parametrize(("asked", "steps", "made"), [(100, 1000, 100), (100, 2000, 100), (100, 999, 99), (100, 50, 5),
                                                      (100, 9, 0), (0, 1000, 0)])
def test_warm_up_takes_a_tenth_of_the_run_at_most(asked: int, steps: int, made: int) -> None:
    assert warmup_steps(TrainConfig(warmup_steps=asked, max_steps=steps)) == made


def test_warm_up_is_a_straight_line_from_a_tenth() -> None:
    found = rates(TrainConfig(warmup_steps=10, max_steps=100))
    assert found[:11] == pytest.approx([0.1 + 0.09 * step for step in range(11)], rel=FP32)


def test_the_cosine_ends_at_one_percent() -> None:
    found = rates(TrainConfig(warmup_steps=10, max_steps=101))
    assert found[-1] == pytest.approx(0.01, rel=FP32)
    assert found[55] == pytest.approx((1 + 0.01) / 2, rel=FP32)


def test_constant_stays() -> None:
    assert set(rates(TrainConfig(schedule="constant", warmup_steps=0, max_steps=50))) == {1.0}


def test_a_single_step_is_made_at_the_full_rate() -> None:
    assert rates(TrainConfig(max_steps=1)) == [1.0]


def test_the_optimizer_is_adamw_as_configured() -> None:
    parameter = nn.Parameter(torch.full((3,), 2.0))
    optimizer = build(TrainConfig(learning_rate=0.1, weight_decay=0.5), [parameter])
    parameter.grad = torch.tensor([1e-3, -5.0, 0.0])
    optimizer.step()
    # The first step of Adam moves by the learning rate against the sign; decay takes rate * decay * value.
    decayed = 2.0 * (1 - 0.1 * 0.5)
    assert parameter.detach().tolist() == pytest.approx([decayed - 0.1, decayed + 0.1, decayed], rel=FP32)


def test_state_survives_a_round_trip_bit_for_bit() -> None:
    def steps(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            parameter.grad = torch.randn(4, generator=torch.Generator().manual_seed(number))
            optimizer.step()

    config = TrainConfig(learning_rate=0.1)
    undisturbed = nn.Parameter(torch.zeros(4))
    steps(undisturbed, build(config, [undisturbed]), range(6))
    first = nn.Parameter(torch.zeros(4))
    optimizer = build(config, [first])
    steps(first, optimizer, range(3))
    second = nn.Parameter(first.detach().clone())
    restored = build(config, [second])
    restored.load_state_dict(optimizer.state_dict())
    steps(second, restored, range(3, 6))
    assert torch.equal(second, undisturbed)
    third = nn.Parameter(first.detach().clone())
    steps(third, build(config, [third]), range(3, 6))
    assert not torch.equal(third, undisturbed)
