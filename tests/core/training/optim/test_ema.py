"""The moving average: its warm-up, its arithmetic, and that looking at it changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sidestep_core.training.optim.ema import Average, decay
from tests.tolerance import FP32, deviation


@pytest.mark.parametrize(("limit", "step", "expected"), [(0.9, 0, 0.1), (0.9, 1, 2 / 11), (0.9, 80, 0.9),
                                                         (0.9, 81, 0.9), (0.9999, 990, 0.991), (0.5, 7, 8 / 17)])
def test_decay_warms_up(limit: float, step: int, expected: float) -> None:
    assert decay(limit, step) == pytest.approx(expected, rel=FP32)


def test_average_is_the_weighted_mean() -> None:
    parameter = nn.Parameter(torch.zeros(3, 2))
    average = Average([parameter], 0.9)
    values = [torch.randn(3, 2, generator=torch.Generator().manual_seed(number)) for number in range(20)]
    expected = torch.zeros(3, 2, dtype=torch.float64)
    for step, value in enumerate(values):
        parameter.data = value.clone()
        average.update(step)
        share = min(0.9, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * value.double()
    with average.applied():
        assert deviation(parameter, expected) < FP32
        assert deviation(parameter, values[-1].double()) > 0.1


def test_applying_changes_no_bit() -> None:
    parameter = nn.Parameter(torch.randn(4, 4))
    average = Average([parameter], 0.5)
    before, identity = parameter.detach().clone(), id(parameter)
    parameter.data += 1
    raw = parameter.detach().clone()
    with average.applied():
        assert torch.equal(parameter, before)
    with pytest.raises(RuntimeError, match="stop"), average.applied():
        raise RuntimeError("stop")
    assert torch.equal(parameter, raw)
    assert id(parameter) == identity
    with average.applied():
        assert torch.equal(parameter, before)


def test_start_resets_the_average() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    average = Average([parameter], 0.9)
    parameter.data = torch.ones(2)
    average.start()
    parameter.data = torch.zeros(2)
    with average.applied():
        assert torch.equal(parameter, torch.ones(2))
