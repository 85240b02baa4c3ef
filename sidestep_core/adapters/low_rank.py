"""Linear layers with LoRAs that read one input, as one operation that keeps little for its backward pass.

Kept are the input and the rank-wide products.  On a GPU that is the input before dropout, one tensor for all layers
that share it, and the mask is drawn again; on the CPU, which has memory but no time for that, the input after it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.frozen import Weight, read
from .dropout import Mask, RedrawnMask, apply_mask, drawn


@dataclass(frozen=True)
class LoraWeights:
    """A frozen weight W [out, in] and its LoRA: scale * B A, with A = down [rank, in] and B = up [out, rank]."""

    weight: Weight
    down: Tensor
    up: Tensor
    scale: float


def linears(x: Tensor, adapted: Sequence[LoraWeights], mask: Mask | None = None) -> tuple[Tensor, ...]:
    """Compute x W^T + scale * masked(x) A^T B^T for each, in the dtype of the frozen weights; x is [..., in]."""
    scales, weights = tuple(each.scale for each in adapted), tuple(each.weight for each in adapted)
    tensors = [tensor for each in adapted for tensor in (each.down, each.up)]
    with torch.autocast(x.device.type, enabled=False):
        out: tuple[Tensor, ...] = _LowRankLinears.apply(  # type: ignore[no-untyped-call]  # torch's annotation
            x.to(weights[0].dtype), mask, scales, weights, *tensors)
        return out


class _LowRankLinears(torch.autograd.Function):
    """The thin products that read the input, or make its gradient, are one product of all layers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Mask | None, scales: tuple[float, ...], weights: tuple[Weight, ...],
                *tensors: Tensor) -> tuple[Tensor, ...]:
        masked = x if mask is None else apply_mask(x, mask)
        layers = _layers(weights, tensors)
        hidden = _rows(masked) @ _joined(layers, x.dtype).T
        outs = [F.linear(x, read(weight)) for weight in weights]
        for out, part, (_, _, up), scale in zip(outs, _parts(hidden, layers), layers, scales, strict=True):
            _rows(out).addmm_(part, up.to(x.dtype).T, alpha=scale)
        ctx.redrawn = mask if isinstance(mask, RedrawnMask) else None
        ctx.scales, ctx.weights = scales, weights
        # Only what is saved this way is dropped where a layer is recomputed.
        ctx.save_for_backward(masked if ctx.redrawn is None else x, mask if isinstance(mask, Tensor) else None, hidden,
                              *tensors)
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, hidden, *tensors = ctx.saved_tensors
        layers, rows = _layers(ctx.weights, tensors), [_rows(gradient) for gradient in gradients]
        mask = drawn(x, ctx.redrawn) if ctx.redrawn is not None else mask
        masked = _rows(x if ctx.redrawn is None else x * mask)
        of_hidden = torch.empty_like(hidden)
        of_ups = []
        for gradient, (_, _, up), part, of_part, scale in zip(
                rows, layers, _parts(hidden, layers), _parts(of_hidden, layers), ctx.scales, strict=True):
            torch.mm(gradient, up.to(x.dtype) * scale, out=of_part)
            of_ups.append((gradient.T @ part).mul_(scale).to(up.dtype))
        of_downs = _parts((of_hidden.T @ masked).T, layers)
        of_x = _input_gradient(x, mask, layers, rows, of_hidden) if ctx.needs_input_grad[0] else None
        of_layers = [(of_down.T.to(down.dtype), of_up)
                     for of_down, of_up, (_, down, _) in zip(of_downs, of_ups, layers, strict=True)]
        return of_x, None, None, None, *itertools.chain.from_iterable(of_layers)


def _input_gradient(x: Tensor, mask: Tensor | None, layers: Sequence[_Layer], gradients: Sequence[Tensor],
                    of_hidden: Tensor) -> Tensor:
    total = gradients[0] @ read(layers[0][0])
    for gradient, (weight, _, _) in zip(gradients[1:], layers[1:], strict=True):
        total.addmm_(gradient, read(weight))
    down = _joined(layers, x.dtype)
    total = total.addmm_(of_hidden, down) if mask is None else total.addcmul_(of_hidden @ down, _rows(mask))
    return total.view(x.shape)


_Layer = tuple[Weight, Tensor, Tensor]
"""Weight, down and up."""


def _joined(layers: Sequence[_Layer], dtype: torch.dtype) -> Tensor:
    """Rows of every down, in the dtype of the products."""
    return layers[0][1].to(dtype) if len(layers) == 1 else torch.cat([down.to(dtype) for _, down, _ in layers])


def _parts(joined: Tensor, layers: Sequence[_Layer]) -> tuple[Tensor, ...]:
    """Columns of each layer's rank."""
    return torch.split(joined, [len(down) for _, down, _ in layers], dim=1)


def _layers(weights: Sequence[Weight], tensors: Sequence[Tensor]) -> list[_Layer]:
    return list(zip(weights, tensors[::2], tensors[1::2], strict=True))


def _rows(x: Tensor) -> Tensor:
    """x as a matrix [positions, width]."""
    return x.reshape(-1, x.shape[-1])
