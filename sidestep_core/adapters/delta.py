"""Weight deltas as adapter files hold them, and the same under the host's own names.

A weight is [outputs, ...]; kinds that are matrices see it as [outputs, the rest].  Every `scale` is the true factor of
the training: a delta is complete without settings.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import AdapterError


class WeightDelta(ABC):
    """Delta of one weight, in the factors that the file holds."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of the delta; of factors [outputs, the rest]."""

    @abstractmethod
    def delta(self, dtype: torch.dtype) -> Tensor:
        """Scaled delta, multiplied out, in `shape`."""

    @abstractmethod
    def host(self) -> dict[str, Tensor]:
        """Tensors by the host's endings."""

    def fits(self, weight: Sequence[int]) -> bool:
        """True for a weight of that shape."""
        return self.shape == (weight[0], math.prod(weight[1:]))

    def own_state(self, module: str, dora: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under the names of LiveAdapter.state_dict, float32, with those of DoRA; empty where no training
        continues such a delta."""
        flat = module.replace(".", "_")
        return {f"lycoris_{flat}.{ending}": tensor.float() for ending, tensor in {**self.host(), **dora}.items()}


@dataclass(frozen=True, kw_only=True)
class FullDelta(WeightDelta):
    """A delta as such, in the shape of its weight."""

    diff: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.diff.shape)

    def delta(self, dtype: torch.dtype) -> Tensor:
        return self.diff.to(dtype)

    def host(self) -> dict[str, Tensor]:
        return {"diff": self.diff}

    def fits(self, weight: Sequence[int]) -> bool:
        return self.shape == tuple(weight)

    def own_state(self, module: str, dora: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {}


@dataclass(frozen=True, kw_only=True)
class ModuleDelta:
    """Everything that an adapter file holds for one module."""

    factors: WeightDelta | None
    magnitude: Tensor | None = None
    """DoRA: the length of each row [outputs, 1], or of each column [1, inputs], of the changed weight."""
    bias: Tensor | None = None
    """Delta of the module's bias."""

    def fits(self, weight: Sequence[int], bias: Sequence[int] | None) -> bool:
        """True for a weight and a bias of those shapes; a module without a bias has no use for one."""
        if self.bias is not None and bias is not None and tuple(self.bias.shape) != tuple(bias):
            return False
        if self.factors is not None and not self.factors.fits(weight):
            return False
        magnitude = self.magnitude
        return magnitude is None or (magnitude.dim() <= len(weight)
                                     and all(have in (1, size)
                                             for have, size in zip(magnitude.shape, weight, strict=False)))

    def delta(self, weight: Tensor) -> Tensor:
        """Delta of the module's weight at strength 1.0, in its shape and dtype."""
        if self.factors is None:
            return torch.zeros_like(weight)
        delta = self.factors.delta(weight.dtype).reshape(weight.shape)
        return delta if self.magnitude is None else decomposed(weight, delta, self.magnitude)

    def host(self) -> dict[str, Tensor]:
        """Tensors by the host's endings, without the magnitude, which it would apply to rows wrongly."""
        bias = {} if self.bias is None else {"diff_b": self.bias}
        return bias if self.factors is None else self.factors.host() | bias


def decomposed(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """Delta of DoRA: the changed weight with each row or column brought to its trained length, less the weight.

    PEFT and LyCORIS divide by the length of the *changed* row; ComfyUI divides by that of the unchanged one.
    """
    changed = weight + delta
    magnitude = magnitude.reshape(*magnitude.shape, *(1,) * (weight.dim() - magnitude.dim()))
    across = [axis for axis, size in enumerate(magnitude.shape) if size == 1]
    length = torch.linalg.vector_norm(changed, dim=across, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    grown: Tensor = changed * (magnitude.to(weight) / length)
    return grown - weight


def multiplied(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """One matrix, or the product of two."""
    return parts[0].to(dtype) if len(parts) == 1 else parts[0].to(dtype) @ parts[1].to(dtype)


def number(value: float) -> Tensor:
    """Float64 scalar: alpha / rank gives the very scale again."""
    return torch.tensor(value, dtype=torch.float64)


def tucker(core: Tensor, down: Tensor, up: Tensor, *, rank_first: bool) -> Tensor:
    """[outputs, inputs, kernel ...] of a convolution's three factors.

    `core` [rank, rank, kernel ...], `down` [rank, inputs]; `up` is [rank, outputs] where `rank_first`.
    """
    letters = "ip" if rank_first else "pi"
    return torch.einsum(f"ij...,jr,{letters}->pr...", core.float(), down.flatten(1).float(), up.flatten(1).float())


def require_part(module: str, parts: Mapping[str, Tensor], name: str) -> Tensor:
    """Matrix of that name.  AdapterError where it is missing or no matrix."""
    if name not in parts:
        raise AdapterError(f"{module} is incomplete: it has {', '.join(sorted(parts))}, but no {name}. Get the file "
                           "again.")
    if parts[name].dim() < 2:
        raise AdapterError(f"{module} is damaged: its {name} is not a matrix, but {tuple(parts[name].shape)}.")
    return parts[name]


def require_chain(module: str, *parts: Tensor) -> None:
    """AdapterError when matrices that are to be multiplied do not fit each other."""
    for left, right in zip(parts[:-1], parts[1:], strict=True):
        if left.dim() < 2 or right.dim() < 2 or left.shape[1] != right.shape[0]:
            raise AdapterError(f"{module} is damaged: its factors are {tuple(left.shape)} and {tuple(right.shape)}, "
                               "which cannot be multiplied. Get the file again.")
