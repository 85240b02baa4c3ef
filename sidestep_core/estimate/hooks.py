"""Gradient hooks on frozen linear layers: each weight's gradient is handed to a hook and freed before the next one.

So scoring every module needs no more memory than a training step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from ..model.frozen import Weight, read, weight_of

GradientHook = Callable[[str, Tensor, Tensor], None]
"""Called with (module, gradient of its output [N, out], its input [N, in]): the weight's gradient is output^T @ input.
"""


class _HookedLinear(torch.autograd.Function):
    """A linear layer whose backward pass hands the two factors of its weight's gradient to a hook."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, weight: Weight, module: str, hook: GradientHook) -> Tensor:
        # As in autocast, tensors saved for the backward pass are in the weight's dtype.
        x = x.to(weight.dtype)
        # Saved for backward, not kept in a closure: so gradient checkpointing can drop and recompute it.
        ctx.save_for_backward(x)
        ctx.weight, ctx.module, ctx.hook = weight, module, hook
        return F.linear(x, read(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        ctx.hook(ctx.module, gradients[0].flatten(0, -2), x.flatten(0, -2))
        below = gradients[0] @ read(ctx.weight) if ctx.needs_input_grad[0] else None
        return below, None, None, None, None


@contextlib.contextmanager
def gradient_hooks(decoder: nn.Module, modules: Sequence[str], hook: GradientHook) -> Iterator[None]:
    """Call `hook` with the gradient of each of the modules in every backward pass inside the block.

    Once per module and pass, also where layers are recomputed.  Predictions stay the same, bit for bit.  ConfigError if
    one of the modules is not a linear layer without bias.
    """
    layers = {name: layer for name, layer in decoder.named_modules() if isinstance(layer, nn.Linear)}
    unknown = [name for name in modules if name not in layers or layers[name].bias is not None]
    if unknown:
        raise ConfigError(f"The decoder has no linear layer {unknown[0]!r} to estimate. Estimate projections of its "
                          "attentions and MLPs.")
    try:
        for name in modules:
            vars(layers[name])["forward"] = _hooked_forward(layers[name], name, hook)
        yield
    finally:
        for name in modules:
            # Uncovers the forward of the class.
            vars(layers[name]).pop("forward", None)


def _hooked_forward(layer: nn.Linear, name: str, hook: GradientHook) -> Callable[[Tensor], Tensor]:
    weight = weight_of(layer)
    # Base weights and the first layer's input are frozen: without this autograd would not run the backward pass.
    anchor = torch.zeros((), device=weight.device, requires_grad=True)

    def forward(x: Tensor) -> Tensor:
        result: Tensor = _HookedLinear.apply(x, anchor, weight, name, hook)  # type: ignore[no-untyped-call]
        return result

    return forward
