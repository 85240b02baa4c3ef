"""What an optimizer has learned, as tensors and JSON, and put back bit for bit: no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..io.strict_json import Json

_BETWEEN = "/"
"""Between the keys of nested state, in the name of a tensor."""


def take(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Json]:
    """Its tensors by name, and the rest: numbers per parameter, and what it keeps in its groups beside settings."""
    tensors: dict[str, Tensor] = {}
    numbers = _collect(optimizer.state_dict()["state"], "", tensors)
    learned = [_learned(optimizer, group) for group in optimizer.param_groups]
    return _apart(tensors), {"state": numbers, "groups": learned}


def put(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Json) -> None:
    """Restore what `take` gave.  ValueError or KeyError when it is of another optimizer."""
    values: dict[str, Any] = rest["state"]
    for name, tensor in tensors.items():
        *way, last = name.split(_BETWEEN)
        place = values
        for key in way:
            place = place[key]
        # A copy, because a memory-mapped checkpoint could not be removed on Windows.
        place[last] = tensor.clone()
    present = optimizer.state_dict()
    groups = [{**group, **learned} for group, learned in zip(present["param_groups"], rest["groups"], strict=True)]
    optimizer.load_state_dict({"state": {int(index): entry for index, entry in values.items()},
                               "param_groups": groups})


def _collect(values: Mapping[Any, Any], prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The values without their tensors, which are added to `tensors`."""
    rest: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}{key}"] = value
        else:
            nested = isinstance(value, Mapping)
            rest[str(key)] = _collect(value, f"{prefix}{key}{_BETWEEN}", tensors) if nested else value
    return rest


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with memory of their own: bitsandbytes shares its quantisation maps, which safetensors refuses."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart


def _learned(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """Entries that the optimizer changed or added itself, such as prodigy's estimate; settings are the config's."""
    return {key: value for key, value in group.items()
            if key not in ("params", "lr") and (key not in optimizer.defaults or value != optimizer.defaults[key])}
