"""Layers of the frozen model that the computer's memory has room for."""

from __future__ import annotations

import sys

import torch

from ...device import OutOfMemory, free_memory
from ...model.offload import OFFLOADS_ON
from ..config import TrainConfig

SHARE = 0.8
"""Largest share of the free memory that layers take: it is pinned, so no other program can be given it."""
_GIB = 1 << 30


def room(layer_bytes: int) -> int:
    """Number of layers of this size that fit."""
    free = free_memory(torch.device("cpu"))
    return sys.maxsize if free is None or not layer_bytes else int(SHARE * free) // layer_bytes


def is_apart(device: torch.device) -> bool:
    """Return True for a device with a memory of its own."""
    return device.type in OFFLOADS_ON


def offloadable(layers: int, layer_bytes: int, config: TrainConfig, device: torch.device) -> int:
    """Return the most of the layers that a training may keep there if it does not fit otherwise."""
    return min(layers, room(layer_bytes)) if config.offload == "auto" and is_apart(device) else 0


def require(layers: int, layer_bytes: int) -> None:
    """Raise OutOfMemory unless so many layers fit."""
    if layers > (fitting := room(layer_bytes)):
        raise OutOfMemory(f"offload is on, but {layers} layers of the model need {layers * layer_bytes / _GIB:.1f} GiB "
                          f"of the computer's memory, which has room for {fitting} of them. Close other programs, set "
                          "offload to auto, or choose base_precision int8.")
