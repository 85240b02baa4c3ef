"""What an adapter holds for one weight, by kind: its shape, what it adds, and the same under the host's own names.

A weight is [outputs, ...]; kinds that are matrices see it as [outputs, the rest].  Every `scale` is the true factor of
the training: nothing else has to be known to apply a record.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import AdapterError


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """scale * up @ down"""

    down: Tensor
    """[rank, inputs, ...]"""
    up: Tensor
    """[outputs, rank, ...]"""
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.up.shape[0], self.down[0].numel()

    def delta(self, dtype: torch.dtype) -> Tensor:
        """[outputs, the rest]"""
        return self.scale * (self.up.flatten(1).to(dtype) @ self.down.flatten(1).to(dtype))

    def host(self) -> dict[str, Tensor]:
        """Tensors by the host's endings."""
        return {"lora_up.weight": self.up, "lora_down.weight": self.down, "alpha": number(self.scale * len(self.down))}


@dataclass(frozen=True, kw_only=True)
class Kronecker:
    """scale * (w1 x w2); either is one matrix, or the two factors of one."""

    w1: tuple[Tensor, ...]
    w2: tuple[Tensor, ...]
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.w1[0].shape[0] * self.w2[0].shape[0], self.w1[-1].shape[1] * self.w2[-1].shape[1]

    def delta(self, dtype: torch.dtype) -> Tensor:
        """[outputs, the rest]"""
        return self.scale * torch.kron(_product(self.w1, dtype), _product(self.w2, dtype))

    def host(self) -> dict[str, Tensor]:
        """Tensors by the host's endings.  It knows no alpha where both are whole, so there the scale goes into w1."""
        names = {"lokr_w1": self.w1, "lokr_w2": self.w2}
        tensors: dict[str, Tensor] = {}
        for name, parts in names.items():
            endings = ("",) if len(parts) == 1 else ("_a", "_b")
            tensors |= {name + ending: part for ending, part in zip(endings, parts, strict=True)}
        rank = next((len(parts[1]) for parts in (self.w2, self.w1) if len(parts) == 2), None)
        if rank is not None:
            return tensors | {"alpha": number(self.scale * rank)}
        return tensors | {"lokr_w1": self.w1[0] if self.scale == 1 else self.scale * self.w1[0].float()}


@dataclass(frozen=True, kw_only=True)
class Hadamard:
    """scale * (a1 @ b1) * (a2 @ b2)"""

    first: tuple[Tensor, Tensor]
    """[outputs, rank] and [rank, inputs]"""
    second: tuple[Tensor, Tensor]
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.first[0].shape[0], self.first[1].shape[1]

    def delta(self, dtype: torch.dtype) -> Tensor:
        """[outputs, the rest]"""
        return self.scale * _product(self.first, dtype) * _product(self.second, dtype)

    def host(self) -> dict[str, Tensor]:
        """Tensors by the host's endings."""
        return {"hada_w1_a": self.first[0], "hada_w1_b": self.first[1], "hada_w2_a": self.second[0],
                "hada_w2_b": self.second[1], "alpha": number(self.scale * len(self.first[1]))}


@dataclass(frozen=True, kw_only=True)
class Full:
    """A change as such, in the shape of its weight."""

    diff: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.diff.shape)

    def delta(self, dtype: torch.dtype) -> Tensor:
        """In the shape of the weight."""
        return self.diff.to(dtype)

    def host(self) -> dict[str, Tensor]:
        """Tensors by the host's endings."""
        return {"diff": self.diff}


Factors = LowRank | Kronecker | Hadamard | Full


@dataclass(frozen=True, kw_only=True)
class ModuleDelta:
    """Everything that an adapter holds for one module."""

    factors: Factors | None
    magnitude: Tensor | None = None
    """DoRA: the length of each row [outputs, 1], or of each column [1, inputs], of the changed weight."""
    bias: Tensor | None = None
    """What is added to the module's bias."""

    def fits(self, weight: Sequence[int], bias: Sequence[int] | None) -> bool:
        """Whether this is for a weight and a bias of those shapes; a module without a bias has no use for one."""
        if self.bias is not None and bias is not None and tuple(self.bias.shape) != tuple(bias):
            return False
        matrix = (weight[0], math.prod(weight[1:]))
        if self.factors is not None and self.factors.shape != (tuple(weight) if isinstance(self.factors, Full)
                                                               else matrix):
            return False
        magnitude = self.magnitude
        return magnitude is None or (magnitude.dim() <= len(weight)
                                     and all(have in (1, size)
                                             for have, size in zip(magnitude.shape, weight, strict=False)))

    def delta(self, weight: Tensor) -> Tensor:
        """What strength 1.0 adds to the module's weight, in its shape and dtype."""
        if self.factors is None:
            return torch.zeros_like(weight)
        delta = self.factors.delta(weight.dtype).reshape(weight.shape)
        return delta if self.magnitude is None else decomposed(weight, delta, self.magnitude)

    def host(self) -> dict[str, Tensor]:
        """Tensors by the host's endings, without the magnitude, which it would apply to rows wrongly."""
        bias = {} if self.bias is None else {"diff_b": self.bias}
        return bias if self.factors is None else self.factors.host() | bias


def decomposed(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """What DoRA adds: the changed weight with each row or column brought to its learned length, less the weight.

    PEFT and LyCORIS divide by the length of the *changed* row; ComfyUI divides by that of the unchanged one.
    """
    changed = weight + delta
    magnitude = magnitude.reshape(*magnitude.shape, *(1,) * (weight.dim() - magnitude.dim()))
    across = [axis for axis, size in enumerate(magnitude.shape) if size == 1]
    length = torch.linalg.vector_norm(changed, dim=across, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    grown: Tensor = changed * (magnitude.to(weight) / length)
    return grown - weight


def _product(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return parts[0].to(dtype) if len(parts) == 1 else parts[0].to(dtype) @ parts[1].to(dtype)


def number(value: float) -> Tensor:
    """Of the precision that Python reckons with, so that alpha / rank is the scale again."""
    return torch.tensor(value, dtype=torch.float64)


def tucker(core: Tensor, down: Tensor, up: Tensor, *, rank_first: bool) -> Tensor:
    """[outputs, inputs, kernel ...] of a convolution's three factors.

    `core` [rank, rank, kernel ...], `down` [rank, inputs]; `up` is [rank, outputs] where `rank_first`.
    """
    letters = "ip" if rank_first else "pi"
    return torch.einsum(f"ij...,jr,{letters}->pr...", core.float(), down.flatten(1).float(), up.flatten(1).float())


def require_chain(module: str, *parts: Tensor) -> None:
    """AdapterError when matrices that are to be multiplied do not fit each other."""
    for left, right in zip(parts[:-1], parts[1:], strict=True):
        if left.dim() < 2 or right.dim() < 2 or left.shape[1] != right.shape[0]:
            raise AdapterError(f"{module} is damaged: its factors are {tuple(left.shape)} and {tuple(right.shape)}, "
                               "which cannot be multiplied. Get the file again.")
