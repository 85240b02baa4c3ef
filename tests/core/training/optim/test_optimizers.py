"""Optimizers that step as configured, name a missing package, and continue bit for bit from their state."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from prodigyopt import Prodigy
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from sidestep_core.errors import MissingDependency
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.training.config import Optimizer, ResolvedConfig
from sidestep_core.training.optim import optimizers
from sidestep_core.training.optim.lr_schedules import learning_rate
from sidestep_core.training.optim.optimizers import build
from tests.tolerance import FP32, PERTURBED, deviation
from tests.training import settled

ALL: tuple[Optimizer, ...] = ("adamw", "adamw8bit", "adafactor", "prodigy", "adamw_schedulefree")
SHAPES = ((64, 128), (128, 64), (7,))
"""bitsandbytes keeps bytes for the large ones, and float32 for the small one."""


def configured(name: Optimizer, rate: float = 0.01, **values: Any) -> ResolvedConfig:
    """Settings below the door: prodigy always runs at 1.0."""
    return settled(optimizer=name, learning_rate=1.0 if name == "prodigy" else rate, **values)


def test_adamw_steps_as_configured() -> None:
    parameter = nn.Parameter(torch.full((3,), 2.0))
    optimizer = build(settled(learning_rate=0.1, weight_decay=0.5), [parameter])
    parameter.grad = torch.tensor([1e-3, -5.0, 0.0])
    optimizer.step()
    # The first step of Adam moves by the learning rate against the sign; decay takes rate * decay * value.
    decayed = 2.0 * (1 - 0.1 * 0.5)
    assert parameter.detach().tolist() == pytest.approx([decayed - 0.1, decayed + 0.1, decayed], rel=FP32)


@pytest.mark.parametrize("name", ALL)
def test_every_optimizer_converges(name: Optimizer) -> None:
    goal = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    parameter = nn.Parameter(torch.zeros(64, 96))
    optimizer = build(configured(name, 0.05, weight_decay=0.0), [parameter])
    for _ in range(60):
        loss = (parameter - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((parameter.detach() - goal).square().mean()) < 0.2 * float(goal.square().mean())


@pytest.mark.parametrize("name", ALL)
def test_weight_decay_shrinks_weights(name: Optimizer) -> None:
    found = []
    for decay in (0.0, 0.5):
        parameter = nn.Parameter(torch.ones(64, 96))
        optimizer = build(configured(name, 0.1, weight_decay=decay), [parameter])
        for _ in range(2):
            parameter.grad = torch.full_like(parameter, 1e-3)
            optimizer.step()
        found.append(float(parameter.detach().mean()))
    assert found[1] < found[0]


def test_adafactor_moves_zero_matrices() -> None:
    """With its usual scaling by the size of the parameter it would move by a thousandth of it."""
    parameter = nn.Parameter(torch.zeros(8, 8))
    optimizer = build(settled(optimizer="adafactor", learning_rate=0.1, weight_decay=0.0), [parameter])
    parameter.grad = torch.ones(8, 8)
    optimizer.step()
    assert parameter.detach().abs().mean() == pytest.approx(0.1, rel=FP32)


def test_arguments_match_side_step() -> None:
    config = settled(learning_rate=0.02, weight_decay=0.03)
    parameter = [nn.Parameter(torch.zeros(2, 2))]
    group = build(replace(config, optimizer="prodigy", learning_rate=1.0), parameter).param_groups[0]
    assert (group["lr"], group["betas"], group["safeguard_warmup"], group["use_bias_correction"], group["eps"],
            group["weight_decay"]) == (1.0, (0.9, 0.99), True, True, 1e-8, 0.03)
    group = build(replace(config, optimizer="adafactor"), parameter).param_groups[0]
    assert (group["lr"], group["scale_parameter"], group["relative_step"], group["weight_decay"]) == (0.02, False,
                                                                                                      False, 0.03)
    for name in ("adamw", "adamw8bit"):
        group = build(replace(config, optimizer=name), parameter).param_groups[0]
        assert (group["lr"], group["betas"], group["weight_decay"]) == (0.02, (0.9, 0.999), 0.03)


def test_prodigy_follows_cosine_as_its_authors_recommend() -> None:
    """Cosine without restarts over the whole run, by torch's own scheduler; its floor is ours."""
    total, config = 80, configured("prodigy", schedule="cosine", warmup_steps=0)
    values = start()
    ours, theirs = ([nn.Parameter(value.clone()) for value in values] for _ in range(2))
    optimizer = build(config, ours)
    reference = Prodigy(theirs, lr=1.0, weight_decay=0.01, betas=(0.9, 0.99), safeguard_warmup=True,
                        use_bias_correction=True)
    scheduler = CosineAnnealingLR(reference, T_max=total - 1, eta_min=0.01)
    constant, unscheduled = fresh("prodigy", values)
    for step in range(total):
        optimizers.set_rate(optimizer, learning_rate(config, total, step))
        for one, trained in ((optimizer, ours), (reference, theirs), (constant, unscheduled)):
            make_steps(one, trained, range(step, step + 1))
        scheduler.step()
    assert optimizer.param_groups[0]["d"] > 100 * optimizer.param_groups[0]["d0"]
    assert optimizer.param_groups[0]["d"] == pytest.approx(reference.param_groups[0]["d"], rel=FP32)
    assert all(deviation(one, other) < FP32 for one, other in zip(ours, theirs, strict=True))
    assert all(deviation(one, other) > PERTURBED for one, other in zip(ours, unscheduled, strict=True))


def test_adamw8bit_stores_bytes() -> None:
    parameter = nn.Parameter(torch.zeros(64, 128))
    optimizer = build(settled(optimizer="adamw8bit"), [parameter])
    parameter.grad = torch.ones(64, 128)
    optimizer.step()
    assert optimizer.state[parameter]["state1"].dtype == torch.uint8


@pytest.mark.parametrize(("name", "package"), [("adamw8bit", "bitsandbytes"), ("adafactor", "transformers"),
                                               ("prodigy", "prodigyopt"),
                                               ("adamw_schedulefree", "schedulefree")])
def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, name: Optimizer, package: str) -> None:
    for module in [loaded for loaded in sys.modules if loaded.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=rf"{name} needs the package {package}.*--upgrade {package}, with"):
        build(settled(optimizer=name), [nn.Parameter(torch.zeros(2))])


def test_state_bytes_are_complete() -> None:
    assert tuple(optimizers.STATE_BYTES) == ALL


@pytest.mark.parametrize("name", ALL)
def test_state_bytes_are_measured(name: Optimizer) -> None:
    parameter = nn.Parameter(torch.ones(256, 512))
    optimizer = build(settled(optimizer=name), [parameter])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    found = sum(value.nbytes for value in optimizer.state[parameter].values() if isinstance(value, torch.Tensor))
    told = optimizers.STATE_BYTES[name] * parameter.numel()
    assert 0.99 * found <= told <= 1.2 * found + 0.2 * parameter.numel()


# State


def fresh(name: Optimizer, values: list[torch.Tensor]) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
    parameters = [nn.Parameter(value.clone()) for value in values]
    return build(configured(name), parameters), parameters


def make_steps(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], numbers: range) -> None:
    for number in numbers:
        random = torch.Generator().manual_seed(number)
        for parameter in parameters:
            # With a direction, so that prodigy's estimate of the rate grows.
            parameter.grad = 1 + torch.randn(parameter.shape, generator=random)
        optimizer.step()


def start() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(99)
    return [torch.zeros(SHAPES[0]), *(torch.randn(shape, generator=random) for shape in SHAPES[1:])]


@pytest.mark.parametrize("name", ALL)
def test_resumed_optimizer_is_bit_identical(tmp_path: Path, name: Optimizer) -> None:
    undisturbed, expected = fresh(name, start())
    make_steps(undisturbed, expected, range(20))

    first, parameters = fresh(name, start())
    make_steps(first, parameters, range(10))
    tensors, rest = optimizers.state_dict(first)
    write_tensors(tmp_path / "o.safetensors", tensors)
    values = [parameter.detach() for parameter in parameters]

    second, parameters = fresh(name, values)
    optimizers.load_state_dict(second, read_tensors(tmp_path / "o.safetensors"), json.loads(json.dumps(rest)))
    make_steps(second, parameters, range(10, 20))
    assert all(torch.equal(one, other) for one, other in zip(parameters, expected, strict=True))

    third, parameters = fresh(name, values)
    make_steps(third, parameters, range(10, 20))
    assert not any(torch.equal(one, other) for one, other in zip(parameters, expected, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_state_dict_changes_nothing(name: Optimizer) -> None:
    undisturbed, expected = fresh(name, start())
    taken, parameters = fresh(name, start())
    for numbers in (range(2), range(2, 4)):
        make_steps(undisturbed, expected, numbers)
        make_steps(taken, parameters, numbers)
        optimizers.state_dict(taken)
    assert all(torch.equal(one, other) for one, other in zip(parameters, expected, strict=True))


def test_state_omits_settings() -> None:
    """Settings are the config's: a run continued with another weight_decay has the other one."""
    optimizer, parameters = fresh("prodigy", start())
    make_steps(optimizer, parameters, range(10))
    _, rest = optimizers.state_dict(optimizer)
    assert {"d", "d_max", "d_numerator", "k"} <= set(rest["groups"][0])
    assert {"lr", "weight_decay", "betas", "eps", "params", "growth_rate"}.isdisjoint(rest["groups"][0])
    assert optimizers.state_dict(fresh("adamw", start())[0])[1]["groups"] == [{}]


def test_foreign_state_is_rejected() -> None:
    optimizer, parameters = fresh("adamw", start())
    make_steps(optimizer, parameters, range(1))
    tensors, rest = optimizers.state_dict(optimizer)
    with pytest.raises((ValueError, KeyError)):
        optimizers.load_state_dict(fresh("adamw", start())[0], tensors, {**rest, "groups": []})
    with pytest.raises((ValueError, KeyError)):
        optimizers.load_state_dict(fresh("adamw", start())[0], tensors, {**rest, "state": {}})


@pytest.mark.parametrize("name", ALL)
def test_decay_leaves_lengths_alone(name: Optimizer) -> None:
    """Without a gradient only decay moves weights; those of DoRA start at the lengths of the model's columns."""
    matrix, lengths = nn.Parameter(torch.ones(64, 96)), nn.Parameter(torch.ones(1, 96))
    optimizer = build(configured(name, 0.1, weight_decay=0.5), [matrix, lengths], [lengths])
    for _ in range(2):
        matrix.grad, lengths.grad = torch.full_like(matrix, 1e-12), torch.full_like(lengths, 0.0)
        optimizer.step()
    assert torch.equal(lengths, torch.ones(1, 96))
    assert float(matrix.detach().mean()) < 1
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
