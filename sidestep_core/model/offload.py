"""Frozen weights in host memory: layer by layer they are copied into a ring of device buffers, ahead of their use.

Only towards the device: nothing is written back.  A read always finds its layer, because it copies one that is not
there; the layer expected next, in the direction of the reads so far, is copied meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .packed import PackedWeight

log = logging.getLogger(__name__)

OFFLOADS_ON = ("cuda", "xpu")
"""Devices with a memory of their own; elsewhere host memory is the device's."""
BUFFERS = 2
"""Layers on the device at a time: that in use, and the next."""
_ALIGNED = 256
"""Bytes to whose multiples each tensor of a layer is aligned."""


@dataclass(frozen=True, eq=False)
class _Part:
    """Position of a tensor in the bytes of its layer."""

    start: int
    like: Tensor
    """Its dtype and shape, without storage."""

    def view(self, buffer: Tensor) -> Tensor:
        size = self.like.numel() * self.like.element_size()
        return buffer[self.start:self.start + size].view(self.like.dtype).view(self.like.shape)


@dataclass(frozen=True, eq=False)
class HostLayer:
    """Packed weights of a layer, in one piece of host memory; pinned for CUDA, whose copies then run beside its work.
    """

    content: Tensor
    """Bytes, uint8."""
    shapes: tuple[torch.Size, ...]
    parts: tuple[tuple[_Part, ...], ...]
    """Values and scale of each weight."""

    @classmethod
    def of(cls, weights: Sequence[PackedWeight], device: torch.device) -> HostLayer:
        """Copy the weights of a layer out of wherever they are."""
        start = 0
        parts: list[list[_Part]] = []
        for weight in weights:
            parts.append([])
            for tensor in weight.tensors:
                parts[-1].append(_Part(start, tensor.to("meta")))
                start += -(-tensor.numel() * tensor.element_size() // _ALIGNED) * _ALIGNED
        content = _host_memory(start, device)
        for weight, own in zip(weights, parts, strict=True):
            for tensor, part in zip(weight.tensors, own, strict=True):
                part.view(content).copy_(tensor)
        return cls(content, tuple(weight.shape for weight in weights), tuple(map(tuple, parts)))

    def packed(self, number: int, buffer: Tensor) -> PackedWeight:
        """Weight in a buffer that holds the content."""
        views = [part.view(buffer) for part in self.parts[number]]
        return PackedWeight(views[0], views[1] if len(views) > 1 else None, self.shapes[number])


def _host_memory(size: int, device: torch.device) -> Tensor:
    if device.type == "cuda" and torch.cuda.is_available():
        try:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:
            log.warning("%d MB of host memory could not be pinned, so copies to the card are slower: %s", size >> 20,
                        error)
    return torch.empty(size, dtype=torch.uint8)


class LayerRing:
    """Layers in host memory, and the device buffers that hold those in use."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._layers: list[HostLayer] = []
        self._buffers: list[Tensor] = []
        """Allocated at the first read, when all layers are known."""
        self._held: list[int | None] = []
        """Layer in each buffer."""
        self._current = -1
        """Layer read last."""
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" and torch.cuda.is_available() else None
        self._copied: list[torch.cuda.Event | None] = []

    def add(self, weights: Sequence[PackedWeight]) -> int:
        """Copy the weights of a further layer to host memory; return its number here."""
        self._layers.append(HostLayer.of(weights, self._device))
        return len(self._layers) - 1

    def packed(self, layer: int, number: int) -> PackedWeight:
        """Return a weight on the device; valid until another layer is read."""
        if not self._buffers:
            self._allocate()
        if layer not in self._held:
            self._copy(layer, self._furthest(layer))
        if layer != self._current:
            step = 1 if layer > self._current else -1
            self._current = layer
            if 0 <= layer + step < len(self._layers) and layer + step not in self._held:
                self._copy(layer + step, self._furthest(layer))
        buffer = self._held.index(layer)
        if (event := self._copied[buffer]) is not None:
            torch.cuda.current_stream(self._device).wait_event(event)
        return self._layers[layer].packed(number, self._buffers[buffer])

    def _allocate(self) -> None:
        size, count = max(layer.content.numel() for layer in self._layers), min(BUFFERS, len(self._layers))
        self._buffers = [torch.empty(size, dtype=torch.uint8, device=self._device) for _ in range(count)]
        self._held, self._copied = [None] * count, [None] * count

    def _furthest(self, layer: int) -> int:
        """Buffer to copy into: an empty one, else that whose layer is furthest from the given one."""
        distances = [float("inf") if held is None else abs(held - layer) for held in self._held]
        return distances.index(max(distances))

    def _copy(self, layer: int, buffer: int) -> None:
        content, stream = self._layers[layer].content, self._copies
        self._held[buffer] = None
        with contextlib.nullcontext() if stream is None else torch.cuda.stream(stream):
            if stream is not None:
                # The buffer's layer may still be in use by work that was launched before.
                stream.wait_stream(torch.cuda.current_stream(self._device))
            self._buffers[buffer][: content.numel()].copy_(content, non_blocking=stream is not None)
            if stream is not None:
                self._copied[buffer] = stream.record_event()
        self._held[buffer] = layer
