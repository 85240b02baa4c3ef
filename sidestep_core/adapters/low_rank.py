"""Linear layer with a LoRA, as one differentiable operation that keeps little for its backward pass.

Kept are the input and the rank-wide product.  On a GPU that is the input before dropout, one tensor for all layers
that share it, and the mask is drawn again; on the CPU, which has memory but no time for that, the input after it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .layer import Mask, RedrawnMask, apply_mask


def linear(x: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float, mask: Mask | None = None) -> Tensor:
    """Compute x W^T + scale * masked(x) A^T B^T in the dtype of the frozen weight W.

    Shapes: x [..., in], W [out, in], A = down [rank, in], B = up [out, rank].
    """
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = _LowRankLinear.apply(  # type: ignore[no-untyped-call]  # torch's annotation
            x.to(weight.dtype), weight, down, up, scale, mask)
        return out


class _LowRankLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float,
                mask: Mask | None) -> Tensor:
        masked = x if mask is None else apply_mask(x, mask)
        out = F.linear(x, weight)
        hidden = F.linear(masked, down.to(x.dtype))
        _rows(out).addmm_(_rows(hidden), up.to(x.dtype).T, alpha=scale)
        ctx.redrawn = mask if isinstance(mask, RedrawnMask) else None
        ctx.scale = scale
        # Only what is saved this way is dropped where a layer is recomputed.
        ctx.save_for_backward(masked if ctx.redrawn is None else x, weight, down, up, hidden,
                              mask if isinstance(mask, Tensor) else None)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, hidden, stored = ctx.saved_tensors
        mask: Mask | None = stored if ctx.redrawn is None else ctx.redrawn
        masked = x if ctx.redrawn is None else apply_mask(x, ctx.redrawn)
        of_hidden = (gradient @ up.to(x.dtype)) * ctx.scale
        of_down = _rows(of_hidden).T @ _rows(masked)
        of_up = (_rows(gradient).T @ _rows(hidden)) * ctx.scale
        of_x = None
        if ctx.needs_input_grad[0]:
            through = of_hidden @ down.to(x.dtype)
            of_x = gradient @ weight
            of_x += through if mask is None else apply_mask(through, mask)
        return of_x, None, of_down.to(down.dtype), of_up.to(up.dtype), None, None


def _rows(x: Tensor) -> Tensor:
    """x as a matrix [positions, width]."""
    return x.reshape(-1, x.shape[-1])
