"""The optimizers with Side-Step's arguments, and their state as tensors and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from ... import optional
from ...io.strict_json import Json
from ..config import Optimizer, TrainConfig
from .adamw import AdamW

SCHEDULE_FREE: Final = "adamw_schedulefree"
STATE_BYTES: dict[Optimizer, float] = {"adamw": 8.0, "adamw8bit": 2.1, "adafactor": 0.2, "prodigy": 16.0,
                                       SCHEDULE_FREE: 8.0}
"""Bytes of state per parameter: two moments; two in bytes with a scale per 256; row and column means; two moments, the
start and the sum of gradients; a moment and the weights that step."""
RATIO = "rate_ratio"
"""Entry of a group: its learning rate over that of the training."""
_BETWEEN = "/"
"""Separator between the keys of nested state, in the name of a tensor."""


Groups = Sequence[nn.Parameter] | Sequence[dict[str, Any]]
"""Parameters with the same settings, or groups with settings of their own."""


def build(config: TrainConfig, parameters: Sequence[nn.Parameter], undecayed: Sequence[nn.Parameter] = (),
          ups: Sequence[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """Build the optimizer over the parameters; weight decay leaves those in `undecayed` alone, and LoRA+ gives `ups` a
    higher learning rate.

    MissingDependency, with the pip line, if its package is missing.
    """
    groups = _groups(config, parameters, undecayed, ups if config.lora_plus_ratio else ())
    if config.optimizer == "adamw8bit":
        return _adamw8bit(config, groups)
    if config.optimizer == "adafactor":
        return _adafactor(config, groups)
    if config.optimizer == "prodigy":
        return _prodigy(config, groups)
    if config.optimizer == SCHEDULE_FREE:
        return _schedule_free(config, groups)
    # One kernel for everything; other devices have none.
    fused = parameters[0].device.type in ("cuda", "cpu", "xpu", "mps")
    return AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATIO, 1.0)


def _groups(config: TrainConfig, parameters: Sequence[nn.Parameter], undecayed: Sequence[nn.Parameter],
            ups: Sequence[nn.Parameter]) -> Groups:
    special = {id(parameter) for parameter in (*undecayed, *ups)}
    if not special:
        return parameters
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in parameters if id(parameter) not in special]},
        {"params": list(ups), "lr": config.learning_rate * config.lora_plus_ratio, RATIO: config.lora_plus_ratio},
        {"params": list(undecayed), "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _adamw8bit(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    with _needs("adamw8bit", "bitsandbytes"):
        from bitsandbytes.optim.adamw import AdamW8bit
    optimizer = AdamW8bit(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    return cast("torch.optim.Optimizer", optimizer)


def _adafactor(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    """Build transformers' Adafactor: torch's cannot switch off scaling by parameter size, which keeps a LoRA's B, zero
    at first, at a thousandth of the rate."""
    with _needs("adafactor", "transformers"):
        from transformers.optimization import Adafactor
    optimizer = Adafactor(groups, lr=config.learning_rate, weight_decay=config.weight_decay,
                          scale_parameter=False, relative_step=False)
    return cast("torch.optim.Optimizer", optimizer)


def _prodigy(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    with _needs("prodigy", "prodigyopt"):
        from prodigyopt import Prodigy
    optimizer = Prodigy(groups, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99),
                        safeguard_warmup=True, use_bias_correction=True)
    return cast("torch.optim.Optimizer", optimizer)


def _schedule_free(config: TrainConfig, groups: Groups) -> torch.optim.Optimizer:
    with _needs(SCHEDULE_FREE, "schedulefree"):
        from schedulefree import AdamWScheduleFree
    optimizer = AdamWScheduleFree(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    optimizer.train()
    return cast("torch.optim.Optimizer", optimizer)


def _needs(optimizer: Optimizer, package: str) -> AbstractContextManager[None]:
    return optional.imports(package, f"The optimizer {optimizer}", "; or choose the optimizer adamw, which needs none")


def require(optimizer: str) -> None:
    """Raise MissingDependency if the optimizer's package cannot be imported."""
    builders = {"adamw8bit": _adamw8bit, "adafactor": _adafactor, "prodigy": _prodigy, SCHEDULE_FREE: _schedule_free}
    if optimizer in builders:
        builders[optimizer](TrainConfig(), [nn.Parameter(torch.zeros(1))])


def state_dict(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Json]:
    """State of the optimizer without pickle: tensors by name, and JSON of all other values, bit for bit.

    The JSON holds the numbers per parameter, and the groups' entries that are not settings.
    """
    tensors: dict[str, Tensor] = {}
    numbers = _collect(optimizer.state_dict()["state"], "", tensors)
    learned = [_learned(optimizer, group) for group in optimizer.param_groups]
    return _unshared(tensors), {"state": numbers, "groups": learned}


def load_state_dict(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Json) -> None:
    """Restore the result of `state_dict`.  ValueError or KeyError if it is of another optimizer."""
    values: dict[str, Any] = rest["state"]
    for name, tensor in tensors.items():
        *path, last = name.split(_BETWEEN)
        parent = values
        for key in path:
            parent = parent[key]
        # A copy, because a memory-mapped checkpoint could not be removed on Windows.
        parent[last] = tensor.clone()
    present = optimizer.state_dict()
    groups = [{**group, **learned} for group, learned in zip(present["param_groups"], rest["groups"], strict=True)]
    optimizer.load_state_dict({"state": {int(index): entry for index, entry in values.items()},
                               "param_groups": groups})


def _collect(values: Mapping[Any, Any], prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Move the tensors among nested values into `tensors`; return the other values."""
    rest: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{key}"] = value
        else:
            nested = isinstance(value, Mapping)
            rest[str(key)] = _collect(value, f"{prefix}{key}{_BETWEEN}", tensors) if nested else value
    return rest


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Clone tensors that share memory: bitsandbytes shares its quantisation maps, which safetensors refuses."""
    seen: set[int] = set()
    unshared: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        unshared[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return unshared


def _learned(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of a group that the optimizer changed or added, such as prodigy's estimate; settings are the config's."""
    usual = optimizer.defaults
    return {key: value for key, value in group.items()
            if key not in ("params", "lr", RATIO) and (key not in usual or value != usual[key])}
