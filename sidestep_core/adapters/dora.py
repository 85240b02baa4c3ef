"""Input-axis DoRA while training: the columns of the changed weight are brought to trained lengths, in float32.

delta.decomposed computes the same for files, along either axis, apart from this.
"""

from __future__ import annotations

import torch
from torch import Tensor


def column_lengths(weight: Tensor) -> Tensor:
    """Length of every input column of a weight [out, in], as [1, in]."""
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=0, keepdim=True)
    return lengths


def decompose(weight: Tensor, delta: Tensor, lengths: Tensor) -> Tensor:
    """Delta of DoRA: `weight + delta`, its columns brought to `lengths`, less the weight.

    ComfyUI and LyCORIS divide by the length plus the epsilon of their dtype; here, as in float64 there, by the length.
    """
    found = column_lengths(weight + delta).clamp_min(torch.finfo(weight.dtype).tiny)
    stretch = lengths / found
    # Not (weight + delta) * stretch - weight, in which a small delta would drown in rounding.
    return delta * stretch + weight * (stretch - 1)
