"""Device memory that the steps of a run use, beside the estimate of `memory.plan`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from ...device import peak_memory, start_peak, total_memory


class MemoryUse:
    """Peak over the steps so far; previews, which load other models, do not count."""

    def __init__(self, device: torch.device, predicted: int) -> None:
        self._device = device
        self._predicted = predicted
        self._total = total_memory(device)
        self._peak = 0

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the work inside the block."""
        start_peak(self._device)
        yield
        self._peak = max(self._peak, peak_memory(self._device) or 0)

    def numbers(self) -> dict[str, float]:
        """Bytes for the page; nothing on devices that do not report them."""
        if self._total is None or not self._peak:
            return {}
        return {"memory_used": self._peak, "memory_predicted": self._predicted, "memory_total": self._total}
