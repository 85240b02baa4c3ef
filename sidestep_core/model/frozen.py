"""Frozen linear layers whose weight is read anew for each product, in the forward pass and in the backward pass.

Autograd keeps no weight of theirs, so one can be held in fewer bits (packed.py) or in host memory (offload.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packed import PackedWeight


@dataclass(eq=False)
class FrozenWeight:
    """Weight that is not held as it is computed with."""

    packed: Callable[[], PackedWeight]
    """Return it on the device, valid until weights of other layers are read."""
    original: Callable[[], Tensor]
    """Read it from the checkpoint's file, on the CPU, as the model that generates has it."""
    shape: torch.Size
    dtype: torch.dtype
    """Dtype of its products."""
    device: torch.device

    def read(self) -> Tensor:
        """Unpack it for one product."""
        return self.packed().unpack(self.dtype)


Weight = Tensor | FrozenWeight
"""Weight of a linear layer, [out, in]."""


class FrozenLinear(nn.Linear):
    """Linear layer without bias on a FrozenWeight; ask `weight_of` for it."""

    def __init__(self, held: FrozenWeight) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = held.shape
        self.held = held
        self.register_parameter("bias", None)

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            out: Tensor = _Product.apply(  # type: ignore[no-untyped-call]  # torch's annotation
                input.to(self.held.dtype), self.held)
            return out


class _Product(torch.autograd.Function):
    """x W^T, which keeps nothing for its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, held: FrozenWeight) -> Tensor:
        ctx.held = held
        return F.linear(x, held.read())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.held.read(), None


def weight_of(layer: nn.Linear) -> Weight:
    """Weight of a linear layer, for its shape, dtype and device, and for `read`."""
    return layer.held if isinstance(layer, FrozenLinear) else layer.weight


def read(weight: Weight) -> Tensor:
    """Return the weight for one product; keep it nowhere."""
    return weight.read() if isinstance(weight, FrozenWeight) else weight


def original(layer: nn.Linear) -> Tensor:
    """Weight as the model that generates has it, whatever it is trained with."""
    return layer.held.original() if isinstance(layer, FrozenLinear) else layer.weight.detach()
