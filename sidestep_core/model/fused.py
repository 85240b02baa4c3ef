"""Operations that are fused by hand, and the plain form of each for a compiler, which fuses them itself.

It also decides itself what is kept for the backward pass, and cannot trace every autograd Function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")


def fused(function: type[torch.autograd.Function], plain: Callable[..., Result], *inputs: object) -> Result:
    """Apply a function, or its plain form where a compiler traces the layer."""
    if torch.compiler.is_compiling():
        return plain(*inputs)
    out: Result = function.apply(*inputs)
    return out
