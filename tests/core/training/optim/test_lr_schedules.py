"""The learning rate's shape, in runs of every length."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core.training.config import ResolvedConfig
from sidestep_core.training.optim.lr_schedules import learning_rate, warmup_steps
from tests.tolerance import FP32
from tests.training import settled

SCHEDULES = ["cosine", "cosine_restarts", "linear", "constant", "constant_with_warmup"]
totals = st.integers(1, 3000)
configs = st.builds(settled, warmup_steps=st.integers(0, 5000), restarts=st.integers(1, 50),
                    schedule=st.sampled_from(SCHEDULES))


def rates(config: ResolvedConfig, total: int) -> list[float]:
    """Relative to the learning rate."""
    return [learning_rate(config, total, step) / config.learning_rate for step in range(total)]


@given(config=configs, total=totals)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_rates_rise_only_at_restarts(config: ResolvedConfig, total: int) -> None:
    warmup, found = warmup_steps(config, total), rates(config, total)
    assert all(0.009 < rate <= 1 for rate in found)
    assert all(first < second for first, second in pairwise(found[:warmup + 1]))
    assert abs(found[warmup] - 1) < FP32
    climbs = sum(first < second for first, second in pairwise(found[warmup:]))
    assert climbs <= (config.restarts - 1 if config.schedule == "cosine_restarts" else 0)


@given(config=configs, total=totals)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_schedules_end_at_one_percent(config: ResolvedConfig, total: int) -> None:
    last = rates(config, total)[-1]
    falls = not config.schedule.startswith("constant") and total - warmup_steps(config, total) > 1
    assert last == pytest.approx(0.01 if falls else 1.0, rel=FP32)


@pytest.mark.parametrize(("asked", "steps", "made"), [(100, 1000, 100), (100, 2000, 100), (100, 999, 99), (100, 50, 5),
                                                      (100, 9, 0), (0, 1000, 0)])
def test_warmup_takes_at_most_a_tenth(asked: int, steps: int, made: int) -> None:
    assert warmup_steps(settled(warmup_steps=asked), steps) == made


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "constant"])
def test_warmup_is_linear(schedule: str) -> None:
    found = rates(settled(warmup_steps=10, schedule=schedule), 100)
    assert found[:11] == pytest.approx([0.1 + 0.09 * step for step in range(11)], rel=FP32)


def test_constant_has_no_warmup() -> None:
    config = settled(schedule="constant", warmup_steps=10)
    assert set(rates(config, 100)) == {1.0}
    assert set(rates(replace(config, schedule="constant_with_warmup"), 100)[10:]) == {1.0}
    assert rates(replace(config, schedule="constant_with_warmup"), 100)[0] == pytest.approx(0.1, rel=FP32)


def test_cosine_is_halved_in_the_middle() -> None:
    assert rates(settled(warmup_steps=10), 101)[55] == pytest.approx((1 + 0.01) / 2, rel=FP32)


def test_linear_falls_linearly() -> None:
    found = rates(settled(schedule="linear", warmup_steps=0), 100)
    assert found == pytest.approx([1 - 0.99 * step / 99 for step in range(100)], rel=FP32)


@pytest.mark.parametrize(("total", "cycles"), [(100, [25, 25, 25, 25]), (103, [26, 26, 26, 25]), (9, [3, 2, 2, 2]),
                                               (7, [3, 2, 2]), (3, [3]), (1, [1])])
def test_restarts_divide_the_run(total: int, cycles: list[int]) -> None:
    """Fewer where a cycle would have a single step: it would be both the top and the end."""
    found = rates(settled(schedule="cosine_restarts", restarts=4, warmup_steps=0), total)
    tops = [step for step in range(total) if found[step] == pytest.approx(1.0, rel=FP32)]
    assert [end - start for start, end in pairwise([*tops, total])] == cycles
    ends = [found[step - 1] for step in [*tops[1:], total]]
    assert ends == pytest.approx([0.01] * len(cycles) if total > 1 else [1.0], rel=FP32)


def test_single_step_uses_the_full_rate() -> None:
    for schedule in SCHEDULES:
        assert rates(settled(schedule=schedule), 1) == [1.0]
