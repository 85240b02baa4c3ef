"""Gradients of frozen weights, one module at a time: each is looked at and let go before the next one is made.

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

Listen = Callable[[str, Tensor, Tensor], None]
"""(module, gradient of its output [N, out], its input [N, in]): the gradient of its weight is output^T @ input."""


class _Probe(torch.autograd.Function):
    """A linear layer whose backward pass shows the two factors of its weight's gradient to a listener."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, awake: Tensor, weight: Tensor, module: str, listen: Listen) -> Tensor:
        # As autocast would: what is kept for the backward pass is in the weight's dtype.
        x = x.to(weight.dtype)
        # Saved for backward, not kept in a closure: so gradient checkpointing can drop and recompute it.
        ctx.save_for_backward(x, weight)
        ctx.module, ctx.listen = module, listen
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        ctx.listen(ctx.module, gradients[0].flatten(0, -2), x.flatten(0, -2))
        below = gradients[0] @ weight if ctx.needs_input_grad[0] else None
        return below, None, None, None, None


@contextlib.contextmanager
def probing(decoder: nn.Module, modules: Sequence[str], listen: Listen) -> Iterator[None]:
    """While this lasts, each backward pass through the decoder shows `listen` the gradient of each of the modules.

    Once each, also where layers are recomputed.  What the decoder predicts stays the same, to the bit.  ConfigError
    when one of the modules is no linear layer without bias.
    """
    layers = {name: layer for name, layer in decoder.named_modules() if isinstance(layer, nn.Linear)}
    unknown = [name for name in modules if name not in layers or layers[name].bias is not None]
    if unknown:
        raise ConfigError(f"The decoder has no linear layer {unknown[0]!r} to estimate. Estimate projections of its "
                          "attentions and MLPs.")
    try:
        for name in modules:
            vars(layers[name])["forward"] = _forward(layers[name], name, listen)
        yield
    finally:
        for name in modules:
            # Back to the class's own.
            vars(layers[name]).pop("forward", None)


def _forward(layer: nn.Linear, name: str, listen: Listen) -> Callable[[Tensor], Tensor]:
    weight = layer.weight
    # The base is frozen and so is the first layer's input: without this the backward pass would not come by.
    awake = torch.zeros((), device=weight.device, requires_grad=True)

    def forward(x: Tensor) -> Tensor:
        result: Tensor = _Probe.apply(x, awake, weight, name, listen)  # type: ignore[no-untyped-call]
        return result

    return forward
