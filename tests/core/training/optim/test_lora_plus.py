"""LoRA+: the groups and the steps of PEFT's own optimizer for it, and what has no B."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from sidestep_core import rng
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.errors import ConfigError
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.training.config import Optimizer
from sidestep_core.training.optim import optimizers
from tests.adapters import KINDS, attached
from tests.tiny import write_dataset
from tests.training import CONFIG, prepared, settled

PLUS = settled(learning_rate=1e-3, weight_decay=0.1, lora_plus_ratio=16.0)


def rates(optimizer: torch.optim.Optimizer, decoder: nn.Module) -> dict[str, tuple[float, float]]:
    """Name of a parameter -> its learning rate and weight decay."""
    names = {id(parameter): name for name, parameter in decoder.named_parameters()}
    return {names[id(parameter)]: (group["lr"], group["weight_decay"])
            for group in optimizer.param_groups for parameter in group["params"]}


def built(checkpoint: Checkpoint, kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    decoder, live = attached(checkpoint, KINDS[kind])
    return decoder, optimizers.build(PLUS, live.parameters, live.undecayed, live.ups)


@pytest.mark.parametrize("kind", ["lora", "rslora-ranks"])
def test_groups_are_those_of_peft(checkpoint: Checkpoint, kind: str) -> None:
    decoder, ours = built(checkpoint, kind)
    theirs = create_loraplus_optimizer(decoder, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0,
                                       loraplus_weight_decay=0.1)
    assert rates(ours, decoder) == rates(theirs, decoder)
    assert {rate for rate, _ in rates(ours, decoder).values()} == {1e-3, 16e-3}


def test_steps_are_those_of_peft(checkpoint: Checkpoint) -> None:
    found = []
    for theirs in (False, True):
        decoder, optimizer = built(checkpoint, "lora")
        if theirs:
            optimizer = create_loraplus_optimizer(decoder, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0,
                                                  loraplus_weight_decay=0.1, fused=True)
        trained = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
        for step in range(3):
            for number, parameter in enumerate(trained):
                parameter.grad = torch.randn(parameter.shape, generator=rng.generator("gradient", step, number))
            optimizer.step()
        found.append(trained)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_lengths_learn_at_the_rate_of_a(checkpoint: Checkpoint) -> None:
    decoder, optimizer = built(checkpoint, "dora")
    ending = {name.rpartition(".")[2]: rate for name, rate in rates(optimizer, decoder).items()}
    assert ending == {"down": (1e-3, 0.1), "up": (16e-3, 0.1), "dora_scale": (1e-3, 0.0)}


def test_schedule_keeps_the_ratio(checkpoint: Checkpoint) -> None:
    decoder, optimizer = built(checkpoint, "lora")
    optimizers.set_rate(optimizer, 5e-4)
    assert {rate for rate, _ in rates(optimizer, decoder).values()} == {5e-4, 80e-4}


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "adafactor"])
def test_b_moves_further(name: Optimizer) -> None:
    a, b = nn.Parameter(torch.zeros(64, 64)), nn.Parameter(torch.zeros(64, 64))
    optimizer = optimizers.build(replace(PLUS, optimizer=name), [a, b], ups=[b])
    for parameter in (a, b):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert float(b.detach().mean() / a.detach().mean()) == pytest.approx(16, rel=1e-3)


def test_ratio_is_a_setting_not_a_state() -> None:
    """A resumed run has the ratio of its settings."""
    parameters = [nn.Parameter(torch.zeros(2, 2)) for _ in range(2)]
    first = optimizers.build(PLUS, parameters, ups=parameters[1:])
    tensors, rest = optimizers.state_dict(first)
    second = optimizers.build(replace(PLUS, lora_plus_ratio=4.0), parameters, ups=parameters[1:])
    optimizers.load_state_dict(second, tensors, json.loads(json.dumps(rest)))
    optimizers.set_rate(second, 1.0)
    assert [group["lr"] for group in second.param_groups] == [1.0, 4.0]


@pytest.mark.parametrize("adapter", [LokrConfig(), LohaConfig()], ids=lambda config: config.kind)
def test_kinds_without_b_are_refused(checkpoint: Checkpoint, tmp_path: Path, adapter: LokrConfig | LohaConfig) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (40, 40))
    with pytest.raises(ConfigError, match=rf"lora_plus_ratio is 16.*this is a {adapter.kind}"):
        prepared(checkpoint, dataset, adapter, replace(CONFIG, lora_plus_ratio=16.0))


def test_prodigy_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (40, 40))
    with pytest.raises(ConfigError, match=r"lora_plus_ratio is 16, but prodigy finds one learning rate"):
        prepared(checkpoint, dataset, config=replace(CONFIG, lora_plus_ratio=16.0, optimizer="prodigy"))


def test_off_is_one_group() -> None:
    parameters = [nn.Parameter(torch.zeros(2, 2)) for _ in range(2)]
    optimizer = optimizers.build(settled(), parameters, ups=parameters[1:])
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]
