"""The exponential moving average of an adapter's weights, which is smoother than any of its moments."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn


def decay(limit: float, step: int) -> float:
    """Share of the old average kept after the optimizer step `step` (0-based): min(limit, (1 + n) / (10 + n)).

    Without this warm-up an average of decay 0.9999 would still be nine tenths of the first weights after 1000 steps.
    """
    return min(limit, (1 + step) / (10 + step))


class Average:
    """The average of the parameters, float32, beside them on their device."""

    def __init__(self, parameters: Sequence[nn.Parameter], limit: float) -> None:
        self._parameters = tuple(parameters)
        self._limit = limit
        self.start()

    def start(self) -> None:
        """Take the parameters as they are now for the average."""
        self._means = [parameter.detach().float().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the optimizer step `step` (0-based)."""
        new = 1 - decay(self._limit, step)
        for mean, parameter in zip(self._means, self._parameters, strict=True):
            mean.lerp_(parameter.float(), new)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters are the average meanwhile, and bit for bit what they were afterwards."""
        raw = [parameter.data for parameter in self._parameters]
        try:
            for parameter, mean in zip(self._parameters, self._means, strict=True):
                parameter.data = mean
            yield
        finally:
            for parameter, values in zip(self._parameters, raw, strict=True):
                parameter.data = values
