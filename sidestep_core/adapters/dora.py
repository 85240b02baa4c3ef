"""The arithmetic of every kind of adapter while it trains: what its matrices add to a weight.

What files add is reckoned in factors.py, apart from this, so that the one is proven by the other.  Names are those of
adapter files, without `.weight`:
    LoRA   lora_up @ lora_down
    LoHA   (hada_w1_a @ hada_w1_b) * (hada_w2_a @ hada_w2_b)
    LoKR   lokr_w1 x lokr_w2, the Kronecker product; each may be stored as two matrices, _a @ _b
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

Factors = Mapping[str, Tensor]

_OF_RANK = ("lora_down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
"""Matrices whose first size is the rank; where a LoKR has both, both have the same."""


def product(factors: Factors) -> Tensor:
    """The matrices multiplied out, [out, in], not yet scaled."""
    if "lora_up" in factors:
        return factors["lora_up"] @ factors["lora_down"]
    if "hada_w1_a" in factors:
        first = factors["hada_w1_a"] @ factors["hada_w1_b"]
        return first * (factors["hada_w2_a"] @ factors["hada_w2_b"])
    return torch.kron(block(factors, "lokr_w1"), block(factors, "lokr_w2"))


def block(factors: Factors, name: str) -> Tensor:
    """One of the two blocks of a LoKR."""
    return factors[name] if name in factors else factors[f"{name}_a"] @ factors[f"{name}_b"]


def divisor(factors: Factors) -> int:
    """The rank, by which alpha is divided; 0 for a LoKR of two full blocks, on which alpha has no effect."""
    return next((factors[name].shape[0] for name in _OF_RANK if name in factors), 0)


def column_lengths(weight: Tensor) -> Tensor:
    """The length of every input column of a weight [out, in], as [1, in]."""
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=0, keepdim=True)
    return lengths


def decompose(weight: Tensor, difference: Tensor, lengths: Tensor) -> Tensor:
    """What input-axis DoRA adds to a weight: `weight + difference`, its columns brought to `lengths`, less the weight.

    ComfyUI and LyCORIS divide by the length plus the epsilon of their dtype; here, as in float64 there, by the length.
    """
    found = column_lengths(weight + difference).clamp_min(torch.finfo(weight.dtype).tiny)
    stretch = lengths / found
    # Not (weight + difference) * stretch - weight, in which a small change would drown in rounding.
    return difference * stretch + weight * (stretch - 1)
