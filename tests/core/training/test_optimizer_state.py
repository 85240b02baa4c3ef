"""What an optimizer has learned comes back bit for bit: one that was stopped steps as one that was not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.training import optimizer_state
from sidestep_core.training.config import Optimizer, TrainConfig
from sidestep_core.training.optimizers import build, effective

ALL: tuple[Optimizer, ...] = ("adamw", "adamw8bit", "adafactor", "prodigy")
SHAPES = ((64, 128), (128, 64), (7,))
"""bitsandbytes keeps bytes for the large ones, and float32 for the small one."""


def fresh(name: Optimizer, values: list[torch.Tensor]) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
    parameters = [nn.Parameter(value.clone()) for value in values]
    return build(effective(TrainConfig(optimizer=name, learning_rate=0.01)), parameters), parameters


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
def test_a_restored_optimizer_steps_as_if_never_stopped(tmp_path: Path, name: Optimizer) -> None:
    undisturbed, expected = fresh(name, start())
    make_steps(undisturbed, expected, range(20))

    first, parameters = fresh(name, start())
    make_steps(first, parameters, range(10))
    tensors, rest = optimizer_state.take(first)
    write_tensors(tmp_path / "o.safetensors", tensors)
    values = [parameter.detach() for parameter in parameters]

    second, parameters = fresh(name, values)
    optimizer_state.put(second, read_tensors(tmp_path / "o.safetensors"), json.loads(json.dumps(rest)))
    make_steps(second, parameters, range(10, 20))
    assert all(torch.equal(one, other) for one, other in zip(parameters, expected, strict=True))

    third, parameters = fresh(name, values)
    make_steps(third, parameters, range(10, 20))
    assert not any(torch.equal(one, other) for one, other in zip(parameters, expected, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_taking_changes_nothing(name: Optimizer) -> None:
    undisturbed, expected = fresh(name, start())
    taken, parameters = fresh(name, start())
    for numbers in (range(2), range(2, 4)):
        make_steps(undisturbed, expected, numbers)
        make_steps(taken, parameters, numbers)
        optimizer_state.take(taken)
    assert all(torch.equal(one, other) for one, other in zip(parameters, expected, strict=True))


def test_only_what_was_learned_is_kept_of_the_groups() -> None:
    """Settings are the config's: a run continued with another weight_decay has the other one."""
    optimizer, parameters = fresh("prodigy", start())
    make_steps(optimizer, parameters, range(10))
    _, rest = optimizer_state.take(optimizer)
    assert {"d", "d_max", "d_numerator", "k"} <= set(rest["groups"][0])
    assert {"lr", "weight_decay", "betas", "eps", "params", "growth_rate"}.isdisjoint(rest["groups"][0])
    assert optimizer_state.take(fresh("adamw", start())[0])[1]["groups"] == [{}]


def test_the_state_of_another_optimizer_is_refused() -> None:
    optimizer, parameters = fresh("adamw", start())
    make_steps(optimizer, parameters, range(1))
    tensors, rest = optimizer_state.take(optimizer)
    with pytest.raises((ValueError, KeyError)):
        optimizer_state.put(fresh("adamw", start())[0], tensors, {**rest, "groups": []})
    with pytest.raises((ValueError, KeyError)):
        optimizer_state.put(fresh("adamw", start())[0], tensors, {**rest, "state": {}})
