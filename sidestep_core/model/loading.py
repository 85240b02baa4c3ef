"""Loading of a decoder whose frozen weights are held in fewer bits, or in host memory; and changes of that later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from ..config import BasePrecision
from .decoder import Decoder, DecoderGeometry, is_chosen
from .frozen import FrozenLinear, FrozenWeight
from .holding import Holding
from .layers import load_frozen
from .offload import LayerRing
from .packed import QUANTISERS, PackedWeight, require_nf4
from .weights import Weights

_BASE = ".base_layer"
"""Name of a projection inside of its adapter."""
CPU = torch.device("cpu")


def load(weights: Weights, holding: Holding) -> Decoder:
    """Load the frozen decoder of a checkpoint (names without `decoder.`), its weights held as `holding` says."""
    with torch.device("meta"):
        decoder = Decoder(DecoderGeometry.from_weights(weights))
    hold(decoder, weights, holding)
    load_frozen(decoder, weights, holding.dtype, holding.device)
    return decoder.eval()


def hold(decoder: Decoder, weights: Weights, holding: Holding) -> None:
    """Read the projections anew from the checkpoint's file and hold them so; those that stay as they are computed with
    are left alone.  An adapter on them stays.

    What the decoder computes is the same, but for the rounding of another precision.
    """
    require(holding.precision)
    decoder.holding = holding
    # Weights that are unpacked for each product are not compiled.
    decoder.compiled = None
    ring, layers = LayerRing(holding.device), decoder.geometry.layers
    for index in range(layers):
        offloaded = is_chosen(index, holding.offloaded, layers)
        names = [name for name in _projections(decoder, index) if offloaded or holding.packs(weights, _file_name(name))]
        packed = [_packed(weights, _file_name(name), holding) for name in names]
        layer = ring.add(packed) if offloaded else None
        for number, (name, weight) in enumerate(zip(names, packed, strict=True)):
            source = _resident(weight, holding.device) if layer is None else partial(ring.packed, layer, number)
            original = partial(weights.tensor, _file_name(name), holding.dtype, CPU)
            decoder.set_submodule(name, FrozenLinear(FrozenWeight(
                packed=source, original=original, shape=weight.shape, dtype=holding.dtype, device=holding.device)))


def require(precision: BasePrecision) -> None:
    """Import what a precision needs.  Raises MissingDependency."""
    if precision == "nf4":
        require_nf4()


def _projections(decoder: Decoder, index: int) -> Iterator[str]:
    """Names of the frozen linear layers of a layer."""
    prefix = f"layers.{index}"
    for name, module in decoder.layers[index].named_modules(prefix=prefix):
        if isinstance(module, nn.Linear):
            yield name


def _file_name(name: str) -> str:
    return f"{name.removesuffix(_BASE)}.weight"


def _packed(weights: Weights, name: str, holding: Holding) -> PackedWeight:
    """Weight in the form it is held in, in the file's memory map, or made on the device."""
    if holding.keeps(weights, name):
        return weights.packed(name)
    if holding.precision in QUANTISERS:
        with torch.inference_mode(False):
            return QUANTISERS[holding.precision](weights.tensor(name, torch.float32, holding.device))
    held = weights.tensor(name, torch.bfloat16 if holding.precision == "bf16" else holding.dtype, CPU)
    return PackedWeight(held, None, held.shape)


def _resident(weight: PackedWeight, device: torch.device) -> Callable[[], PackedWeight]:
    on_device = weight.map(lambda tensor: tensor.to(device))
    return lambda: on_device
