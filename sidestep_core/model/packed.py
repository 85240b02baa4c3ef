"""Frozen weights as they are held: in a float dtype, or in fewer bits with scales; unpacked where they are used.

Weights of quantised files and those quantised here are unpacked by the same products, so training on a weight that
stays packed equals training on the unpacked one, bit for bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import optional

if TYPE_CHECKING:
    from bitsandbytes.functional import QuantState

FP8 = torch.float8_e4m3fn
NF4_BLOCK = 64
"""Numbers that share a scale in nf4."""
NF4_PURPOSE = "base_precision nf4"
_INT8_MAX = 127


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """Weight [rows, columns] as it is held."""

    values: Tensor
    """Float, fp8 or int8 numbers in the weight's shape; of nf4 two numbers to a byte."""
    scale: Tensor | None
    """Factor of the values: a scalar, [rows, 1], or one to each block of nf4; None for float and unscaled fp8."""
    shape: torch.Size

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.values,) if self.scale is None else (self.values, self.scale)

    def map(self, change: Callable[[Tensor], Tensor]) -> PackedWeight:
        """Apply a change, such as a copy to a device, to every tensor."""
        return PackedWeight(change(self.values), None if self.scale is None else change(self.scale), self.shape)

    def unpack(self, dtype: torch.dtype) -> Tensor:
        """Return the weight in this dtype, exactly as ComfyUI computes with it; not a copy where it is held so."""
        if self.scale is None:
            return self.values.to(dtype)
        if self.values.dtype == torch.uint8:
            return _dequantise_nf4(self.values, self.scale, self.shape, dtype)
        if self.values.dtype == torch.int8:
            # A product in float32, rounded once, without a float32 copy of the weight on a GPU.
            out = torch.empty(self.shape, dtype=dtype, device=self.values.device)
            return torch.mul(self.values, self.scale.float(), out=out)
        # Both factors are rounded before the product, as in ComfyUI.
        return self.values.to(dtype, copy=True).mul_(self.scale.to(dtype))


def to_int8(weight: Tensor) -> PackedWeight:
    """Quantise to int8 with one scale per row."""
    weight = weight.float()
    scale = (weight.abs().amax(1, keepdim=True) / _INT8_MAX).clamp_min_(torch.finfo(torch.float32).tiny)
    return PackedWeight((weight / scale).round_().to(torch.int8), scale, weight.shape)


def to_fp8(weight: Tensor) -> PackedWeight:
    """Quantise to fp8 (e4m3) with one scale, a power of two: its product is exact in every dtype."""
    weight = weight.float()
    largest = weight.abs().amax().clamp_min(torch.finfo(torch.float32).tiny)
    scale = torch.exp2(torch.ceil(torch.log2(largest / torch.finfo(FP8).max)))
    return PackedWeight((weight / scale).to(FP8), scale, weight.shape)


def to_nf4(weight: Tensor) -> PackedWeight:
    """Quantise to nf4, by bitsandbytes.  MissingDependency without it."""
    require_nf4()
    from bitsandbytes.functional import quantize_4bit

    values, state = quantize_4bit(weight.float(), blocksize=NF4_BLOCK, quant_type="nf4")
    return PackedWeight(values, state.absmax, weight.shape)


QUANTISERS: Mapping[str, Callable[[Tensor], PackedWeight]] = {"int8": to_int8, "fp8": to_fp8, "nf4": to_nf4}
"""Precision -> its quantiser."""
BITS = {"int8": 8.0, "fp8": 8.0, "nf4": 4 + 32 / NF4_BLOCK}
"""Precision -> bits per number, without scales of rows."""


def require_nf4() -> None:
    """Import what nf4 needs.  Raises MissingDependency."""
    with optional.imports("bitsandbytes", NF4_PURPOSE, "; or choose int8, which needs nothing"):
        import bitsandbytes.functional  # noqa: F401


def _dequantise_nf4(values: Tensor, scale: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    weight: Tensor = dequantize_4bit(values, _nf4_state(scale, shape, dtype))
    return weight


def _nf4_state(scale: Tensor, shape: torch.Size, dtype: torch.dtype) -> QuantState:
    from bitsandbytes.functional import QuantState

    return QuantState(absmax=scale, shape=shape, code=_nf4_code(scale.device), blocksize=NF4_BLOCK, quant_type="nf4",
                      dtype=dtype)


@functools.cache
def _nf4_code(device: torch.device) -> Tensor:
    """The sixteen values of nf4."""
    from bitsandbytes.functional import get_4bit_type

    code: Tensor = get_4bit_type("nf4", device=device)
    return code


def packed_bytes(shape: tuple[int, ...], precision: str) -> int:
    """Bytes of a weight [rows, columns] that is quantised here, scales included."""
    return round(math.prod(shape) * BITS[precision] / 8) + (4 * shape[0] if precision == "int8" else 0)
