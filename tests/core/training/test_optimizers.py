"""Optimizers that step as configured, say what they overrule, and name the package that they lack."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from sidestep_core.errors import MissingDependency
from sidestep_core.training import optimizers
from sidestep_core.training.config import Optimizer, TrainConfig
from sidestep_core.training.optimizers import build, effective, overruled
from tests.tolerance import FP32

ALL: tuple[Optimizer, ...] = ("adamw", "adamw8bit", "adafactor", "prodigy")


def test_the_optimizer_is_adamw_as_configured() -> None:
    parameter = nn.Parameter(torch.full((3,), 2.0))
    optimizer = build(TrainConfig(learning_rate=0.1, weight_decay=0.5), [parameter])
    parameter.grad = torch.tensor([1e-3, -5.0, 0.0])
    optimizer.step()
    # The first step of Adam moves by the learning rate against the sign; decay takes rate * decay * value.
    decayed = 2.0 * (1 - 0.1 * 0.5)
    assert parameter.detach().tolist() == pytest.approx([decayed - 0.1, decayed + 0.1, decayed], rel=FP32)


@pytest.mark.parametrize("name", ALL)
def test_every_optimizer_finds_the_lowest_point(name: Optimizer) -> None:
    goal = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    parameter = nn.Parameter(torch.zeros(64, 96))
    optimizer = build(effective(TrainConfig(optimizer=name, learning_rate=0.05, weight_decay=0.0)), [parameter])
    for _ in range(60):
        loss = (parameter - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((parameter.detach() - goal).square().mean()) < 0.2 * float(goal.square().mean())


@pytest.mark.parametrize("name", ALL)
def test_weight_decay_reaches_every_optimizer(name: Optimizer) -> None:
    found = []
    for decay in (0.0, 0.5):
        parameter = nn.Parameter(torch.ones(64, 96))
        optimizer = build(effective(TrainConfig(optimizer=name, learning_rate=0.1, weight_decay=decay)), [parameter])
        for _ in range(2):
            parameter.grad = torch.full_like(parameter, 1e-3)
            optimizer.step()
        found.append(float(parameter.detach().mean()))
    assert found[1] < found[0]


def test_adafactor_moves_a_zero_matrix_by_the_learning_rate() -> None:
    """With its usual scaling by the size of the parameter it would move by a thousandth of it."""
    parameter = nn.Parameter(torch.zeros(8, 8))
    optimizer = build(TrainConfig(optimizer="adafactor", learning_rate=0.1, weight_decay=0.0), [parameter])
    parameter.grad = torch.ones(8, 8)
    optimizer.step()
    assert parameter.detach().abs().mean() == pytest.approx(0.1, rel=FP32)


def test_the_arguments_are_those_of_side_step() -> None:
    config = TrainConfig(learning_rate=0.02, weight_decay=0.03)
    parameter = [nn.Parameter(torch.zeros(2, 2))]
    group = build(effective(replace(config, optimizer="prodigy")), parameter).param_groups[0]
    assert (group["lr"], group["betas"], group["safeguard_warmup"], group["use_bias_correction"], group["eps"],
            group["weight_decay"]) == (1.0, (0.9, 0.99), True, True, 1e-8, 0.03)
    group = build(replace(config, optimizer="adafactor"), parameter).param_groups[0]
    assert (group["lr"], group["scale_parameter"], group["relative_step"], group["weight_decay"]) == (0.02, False,
                                                                                                      False, 0.03)
    for name in ("adamw", "adamw8bit"):
        group = build(replace(config, optimizer=name), parameter).param_groups[0]
        assert (group["lr"], group["betas"], group["weight_decay"]) == (0.02, (0.9, 0.999), 0.03)


def test_adamw8bit_keeps_bytes_for_large_matrices() -> None:
    parameter = nn.Parameter(torch.zeros(64, 128))
    optimizer = build(TrainConfig(optimizer="adamw8bit"), [parameter])
    parameter.grad = torch.ones(64, 128)
    optimizer.step()
    assert optimizer.state[parameter]["state1"].dtype == torch.uint8


@pytest.mark.parametrize(("name", "package"), [("adamw8bit", "bitsandbytes"), ("adafactor", "transformers"),
                                               ("prodigy", "prodigyopt")])
def test_a_missing_package_is_named_with_the_pip_line(monkeypatch: pytest.MonkeyPatch, name: Optimizer,
                                                      package: str) -> None:
    for module in [loaded for loaded in sys.modules if loaded.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=rf"{name} needs the package {package}.*--upgrade {package}, with"):
        build(TrainConfig(optimizer=name), [nn.Parameter(torch.zeros(2))])


def test_prodigy_always_runs_at_its_own_rate_and_says_so() -> None:
    asked = TrainConfig(optimizer="prodigy", learning_rate=3e-4, schedule="linear", warmup_steps=5)
    used = effective(asked)
    assert (used.learning_rate, used.schedule) == (1.0, "constant")
    assert overruled(asked, 1000) == ["prodigy finds the learning rate itself: it runs at learning_rate 1.0 and "
                                      "schedule constant, not at 0.0003 and linear."]
    assert overruled(used, 1000) == []
    assert effective(replace(asked, optimizer="adamw")) == replace(asked, optimizer="adamw")


def test_a_shorter_warm_up_is_told() -> None:
    assert overruled(TrainConfig(warmup_steps=100), 1000) == []
    assert overruled(TrainConfig(warmup_steps=100), 500) == [
        "Warm-up takes 50 steps, not 100: at most one in 10 of the run's 500."]
    assert overruled(TrainConfig(warmup_steps=100, schedule="constant"), 500) == []


def test_every_optimizer_has_a_size() -> None:
    assert tuple(optimizers.STATE_BYTES) == ALL


@pytest.mark.parametrize("name", ALL)
def test_the_size_of_the_state_is_as_told(name: Optimizer) -> None:
    parameter = nn.Parameter(torch.ones(256, 512))
    optimizer = build(TrainConfig(optimizer=name), [parameter])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    found = sum(value.nbytes for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor))
    told = optimizers.STATE_BYTES[name] * parameter.numel()
    assert 0.99 * found <= told <= 1.2 * found + 0.2 * parameter.numel()
