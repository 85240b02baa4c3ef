"""Regional compilation: one decoder layer is compiled by torch, for any length, and computes all layers.

torch's compiler is imported where it is used only: that takes longer than everything else before the first step.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from typing import Any, Literal

import torch
from torch import Tensor

from .. import optional
from ..errors import ConfigError
from .decoder import Decoder, DecoderLayer
from .frozen import FrozenLinear

log = logging.getLogger(__name__)

Choice = Literal["off", "auto", "on"]
"""Setting `compile`: auto is on where it is likely to pay."""
PAYS_ON = ("cuda",)
"""Devices of auto.  On a CPU compiling takes minutes, and a step then nine tenths of its time."""
PAYS_FROM = 500
"""Steps of a run from which auto waits for a compiler; it takes a minute or more."""
BACKEND = "inductor"
MOST_GRAPHS = 32
"""Graphs of a training: for sliding and full attention, short crops and long ones, one sample and several, and for
layers that differ in their adapted modules."""
_OLDEST_CARD = (7, 0)
"""Compute capability that triton needs."""


def choose(choice: Choice, device: torch.device, steps: int, obstacle: str = "") -> bool:
    """Return True if a training of so many steps is to be compiled; `obstacle` is a reason against it.

    ConfigError if it is asked for and impossible.
    """
    if choice == "off":
        return False
    reason = obstacle or trouble(device)
    if choice == "on":
        if reason:
            raise ConfigError(f"compile is on, but {reason}. Switch it off.")
        return True
    if not reason and device.type not in PAYS_ON:
        reason = f"it does not pay on {device.type}"
    if not reason and steps < PAYS_FROM:
        reason = f"it does not pay for {steps} steps; it does from {PAYS_FROM} on"
    log.info("Layers are not compiled: %s." if reason else "Layers are compiled.", *([reason] if reason else []))
    return not reason


def trouble(device: torch.device) -> str:
    """Return the reason why nothing can be compiled for this device; empty if it seems possible."""
    if device.type not in ("cuda", "cpu"):
        return f"nothing is compiled for {device.type} here"
    if device.type == "cuda":
        if not optional.is_installed("triton"):
            return "the package triton is not installed"
        if torch.cuda.get_device_capability(device) < _OLDEST_CARD:
            return "this card is too old for triton"
    named, usual = ("CC", ("cc", "gcc", "clang")) if device.type == "cuda" else ("CXX", ("c++", "g++", "clang++"))
    programs = [os.environ[named]] if os.environ.get(named) else [*usual] if sys.platform != "win32" else ["cl"]
    return "" if any(map(shutil.which, programs)) else f"there is no C++ compiler ({', '.join(programs)})"


def has_packed_weights(decoder: Decoder) -> bool:
    """Return True if some weights are unpacked, or fetched, for each product, which is not compiled."""
    return any(isinstance(module, FrozenLinear) for module in decoder.layers.modules())


def compile_layers(decoder: Decoder) -> None:
    """Let a compiled layer compute the passes with gradients.  The compiler runs at the first of them."""
    from torch._dynamo import config

    # Parts that are not compiled would cost time at every step, and an error is dealt with.
    run = torch.compile(DecoderLayer.forward, backend=BACKEND, dynamic=True, fullgraph=True)

    def forward(layer: DecoderLayer, *inputs: Any) -> Tensor:
        # With numbers such as the chance of dropout as inputs every layer is traced twice.
        with config.patch(specialize_float=True, recompile_limit=MOST_GRAPHS):
            out: Tensor = run(layer, *inputs)
            return out

    decoder.compiled = forward
