"""Precision and place of a decoder's frozen weights: of the projections of its layers, which are nearly all of them.

loading.py makes them so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..config import BasePrecision
from ..errors import ConfigError
from .packed import QUANTISERS, packed_bytes
from .weights import FP8, Weights

_SAME = {"int8": ("I8",), "fp8": FP8}
"""Precision -> dtypes of files that have it already."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """Form of the weights of the layers' projections."""

    precision: BasePrecision = "as_file"
    """as_file: fp8 and int8 as in the file, everything else in the dtype of the computation."""
    offloaded: int = 0
    """Number of layers in host memory, evenly spread."""
    dtype: torch.dtype
    """Dtype of the computation, and of all other weights."""
    device: torch.device

    def __post_init__(self) -> None:
        if self.precision == "fp8" and not self._has_fp8:
            raise ConfigError("base_precision fp8 does not exist on Apple GPUs. Use int8.")

    @property
    def _has_fp8(self) -> bool:
        return self.device.type != "mps"

    def keeps(self, weights: Weights, name: str) -> bool:
        """Return True for a weight that is held as the file has it, in fewer bits."""
        stored = weights.stored_dtype(name)
        if self.precision == "as_file":
            return weights.is_quantised(name) and (self._has_fp8 or stored not in FP8)
        return stored in _SAME.get(self.precision, ())

    def packs(self, weights: Weights, name: str) -> bool:
        """Return True for a weight that is not held as it is computed with."""
        if self.precision in QUANTISERS or self.keeps(weights, name):
            return True
        return self.precision == "bf16" and self.dtype != torch.bfloat16

    def bytes(self, weights: Weights, name: str) -> int:
        """Size of a weight as it is held."""
        shape = weights.shape(name)
        if self.keeps(weights, name):
            return weights.stored_bytes(name)
        if self.precision in QUANTISERS:
            return packed_bytes(shape, self.precision)
        return math.prod(shape) * (torch.bfloat16 if self.precision == "bf16" else self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class HeldBytes:
    """Sizes of a decoder's weights as they are held."""

    total: int
    """All weights, wherever they are."""
    layer: int
    """Projections of one layer."""
    unpacked: int
    """Largest weight that is unpacked for its products; 0 if none is."""


def held_bytes(weights: Weights, holding: Holding) -> HeldBytes:
    """Count the bytes of a decoder's weights by the header of its file, without reading them."""
    total, layer, unpacked = 0, 0, 0
    for name in weights.names:
        size = math.prod(weights.shape(name)) * holding.dtype.itemsize
        if name.startswith("layers.") and name.endswith("_proj.weight"):
            held = holding.bytes(weights, name)
            layer += held if name.startswith("layers.0.") else 0
            unpacked = max(unpacked, size if holding.packs(weights, name) else 0)
            size = held
        total += size
    return HeldBytes(total=total, layer=layer, unpacked=unpacked)
