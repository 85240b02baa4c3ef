"""Linear layers with LoRAs that read one input, as one operation that keeps little for its backward pass.

Kept are the input and the rank-wide products.  On a GPU that is the input before dropout, one tensor for all layers
that share it, and the mask is drawn again; on the CPU, which has memory but no time for that, the input after it.

A DoRA is computed as a LoRA on scaled inputs, without any matrix of the weight's size: W + delta brought to trained
column lengths is W + scale * B A times a stretch of every input, and its lengths follow from thin products.
Shapes: x [..., in], W [out, in], A = down [rank, in], B = up [out, rank], stretch [in].
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
from .dropout import Dropped, Mask, RedrawnMask, apply_mask, drawn


@dataclass(frozen=True)
class LoraWeights:
    """A frozen weight W [out, in] and its LoRA: scale * B A, with A = down [rank, in] and B = up [out, rank]."""

    weight: Weight
    down: Tensor
    up: Tensor
    scale: float


def linears(x: Tensor, adapted: Sequence[LoraWeights], mask: Mask | None = None,
            ranks: Tensor | None = None) -> tuple[Tensor, ...]:
    """Compute x W^T + scale * (masked(x) A^T * ranks) B^T for each, in the dtype of the frozen weights; x is [..., in].

    `ranks` is 1 and 0 for the ranks of all layers, one after the other, and is broadcast over positions.
    """
    scales, weights = tuple(each.scale for each in adapted), tuple(each.weight for each in adapted)
    tensors = [tensor for each in adapted for tensor in (each.down, each.up)]
    with torch.autocast(x.device.type, enabled=False):
        out: tuple[Tensor, ...] = _LowRankLinears.apply(  # type: ignore[no-untyped-call]  # torch's annotation
            x.to(weights[0].dtype), mask, ranks, scales, weights, *tensors)
        return out


def linears_plainly(x: Tensor, adapted: Sequence[LoraWeights], dropped: Tensor, ranks: Tensor | None,
                    ) -> tuple[Tensor, ...]:
    """Compute `linears` in plain operations, for a compiler; `dropped` is the masked input."""
    with torch.autocast(x.device.type, enabled=False):
        layers = [(each.weight, each.down, each.up) for each in adapted]
        hidden = F.linear(dropped, _joined(layers, x.dtype))
        parts = _parts(_rows(hidden if ranks is None else hidden * ranks), layers)
        outs = []
        for each, part in zip(adapted, parts, strict=True):
            out = F.linear(x, read(each.weight))
            outs.append(torch.addmm(_rows(out), part, each.up.to(x.dtype).T, alpha=each.scale).view(out.shape))
        return tuple(outs)


class _LowRankLinears(torch.autograd.Function):
    """The thin products that read the input, or make its gradient, are one product of all layers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Mask | None, ranks: Tensor | None, scales: tuple[float, ...],
                weights: tuple[Weight, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        masked = x if mask is None else apply_mask(x, mask)
        layers = _layers(weights, tensors)
        hidden = _keep(_rows(masked) @ _joined(layers, x.dtype).T, x, ranks)
        outs = [F.linear(x, read(weight)) for weight in weights]
        for out, part, (_, _, up), scale in zip(outs, _parts(hidden, layers), layers, scales, strict=True):
            _rows(out).addmm_(part, up.to(x.dtype).T, alpha=scale)
        ctx.redrawn = mask if isinstance(mask, RedrawnMask) else None
        ctx.scales, ctx.weights = scales, weights
        # Only what is saved this way is dropped where a layer is recomputed.
        ctx.save_for_backward(masked if ctx.redrawn is None else x, mask if isinstance(mask, Tensor) else None, ranks,
                              hidden, *tensors)
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, mask, ranks, hidden, *tensors = ctx.saved_tensors
        layers, rows = _layers(ctx.weights, tensors), [_rows(gradient) for gradient in gradients]
        mask = drawn(x, ctx.redrawn) if ctx.redrawn is not None else mask
        masked = _rows(x if ctx.redrawn is None else x * mask)
        of_hidden = torch.empty_like(hidden)
        of_ups = []
        for gradient, (_, _, up), part, of_part, scale in zip(
                rows, layers, _parts(hidden, layers), _parts(of_hidden, layers), ctx.scales, strict=True):
            torch.mm(gradient, up.to(x.dtype) * scale, out=of_part)
            of_ups.append((gradient.T @ part).mul_(scale).to(up.dtype))
        _keep(of_hidden, x, ranks)
        of_downs = _parts((of_hidden.T @ masked).T, layers)
        of_x = _input_gradient(x, mask, layers, rows, of_hidden) if ctx.needs_input_grad[0] else None
        of_layers = [(of_down.T.to(down.dtype), of_up)
                     for of_down, of_up, (_, down, _) in zip(of_downs, of_ups, layers, strict=True)]
        return of_x, None, None, None, None, *itertools.chain.from_iterable(of_layers)


def _keep(products: Tensor, x: Tensor, ranks: Tensor | None) -> Tensor:
    """Zero the dropped ranks of products [positions, ranks] of x, or of their gradient, in place."""
    if ranks is not None:
        products.view(*x.shape[:-1], -1).mul_(ranks)
    return products


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


@dataclass(frozen=True, kw_only=True)
class Dora:
    """A frozen weight and its DoRA; `squares` are those of the weight's column lengths, float32 [in]."""

    weight: Weight
    down: Tensor
    up: Tensor
    scale: float
    squares: Tensor
    lengths: Tensor

    @property
    def stretch(self) -> Tensor:
        """Trained lengths over those of W + scale * B A."""
        squares: Tensor = _Squares.apply(  # type: ignore[no-untyped-call]  # torch's annotation
            self.weight, self.squares, self.down, self.up, self.scale)
        tiny = torch.finfo(squares.dtype).tiny
        return self.lengths.flatten() / squares.clamp_min(tiny).sqrt()


def dora_linear(x: Tensor, dora: Dora, dropped: Dropped, kept: float = 1.0) -> Tensor:
    """Compute x W^T + kept * dropped(x) (W' - W)^T, with W' = (W + scale * B A) * stretch, in the dtype of W."""
    with torch.autocast(x.device.type, enabled=False):
        redrawn, masked = (dropped, None) if isinstance(dropped, RedrawnMask) else (None, dropped)
        out: Tensor = _DoraLinear.apply(  # type: ignore[no-untyped-call]  # torch's annotation
            x, masked, dora.weight, dora.down, dora.up, dora.stretch, dora.scale, kept, redrawn)
        return out


class _Squares(torch.autograd.Function):
    """Squared column lengths of W + scale * B A."""

    @staticmethod
    def forward(ctx: Any, weight: Weight, squares: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        crossed = up.T @ read(weight).to(up.dtype)
        ctx.weight, ctx.scale = weight, scale
        ctx.save_for_backward(down, up)
        return squares + scale * (down * (2 * crossed + scale * ((up.T @ up) @ down))).sum(0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        down, up = ctx.saved_tensors
        wide, scaled = read(ctx.weight).to(up.dtype), down * gradient
        of_down = (2 * ctx.scale) * gradient * (up.T @ wide + ctx.scale * ((up.T @ up) @ down))
        of_up = (2 * ctx.scale) * (wide @ scaled.T + ctx.scale * (up @ (down @ scaled.T)))
        return None, None, of_down, of_up, None


class _DoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, masked: Tensor | None, weight: Weight, down: Tensor, up: Tensor, stretch: Tensor,
                scale: float, kept: float, redrawn: RedrawnMask | None) -> Tensor:
        ctx.weight, ctx.scale, ctx.kept, ctx.redrawn = weight, scale, kept, redrawn
        wide = read(weight)
        inputs = x if redrawn is None else apply_mask(x, redrawn)
        inputs = inputs if masked is None else masked
        more, factor = (kept * (stretch - 1)).to(x.dtype), (kept * stretch).to(x.dtype)
        if x.dtype == torch.float32:
            out = F.linear(torch.addcmul(x, inputs, more), wide)
        else:
            # In half precision the sum would round the difference away.
            out = F.linear(x, wide) + F.linear(inputs * more, wide)
        hidden = _rows(inputs * factor) @ down.to(x.dtype).T
        _rows(out).addmm_(hidden, up.to(x.dtype).T, alpha=scale)
        ctx.save_for_backward(x if masked is None else masked, down, up, stretch, hidden)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, down, up, stretch, hidden = ctx.saved_tensors
        mask = None if ctx.redrawn is None else drawn(x, ctx.redrawn)
        inputs, rows = _rows(x if mask is None else x * mask), _rows(gradient)
        more, factor = (ctx.kept * (stretch - 1)).to(x.dtype), (ctx.kept * stretch).to(x.dtype)
        of_hidden = (rows @ up.to(x.dtype)).mul_(ctx.scale)
        of_up = (rows.T @ hidden).mul_(ctx.scale).to(up.dtype)
        of_down = (of_hidden.T @ (inputs * factor)).to(down.dtype)
        of_x, through = rows @ read(ctx.weight), of_hidden @ down.to(x.dtype)
        of_stretch = ctx.kept * ((of_x + through) * inputs).sum(0, dtype=stretch.dtype)
        of_inputs = (of_x * more).addcmul_(through, factor)
        if mask is not None:
            of_x, of_inputs = torch.addcmul(of_x, of_inputs, _rows(mask)), None
        return (of_x.view(x.shape), None if of_inputs is None else of_inputs.view(x.shape), None, of_down, of_up,
                of_stretch, None, None, None)
