"""Exponential moving average of an adapter's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import nn


class Averaging(Protocol):
    """Weights that are measured and published in place of the trained ones."""

    def start(self) -> None:
        """Begin at the present parameters."""
        ...

    def update(self, step: int) -> None:
        """Take account of optimizer step `step` (0-based)."""
        ...

    def applied(self) -> AbstractContextManager[None]:
        """Replace the parameters by these weights inside the block; they are restored bit for bit."""
        ...


def decay(limit: float, step: int) -> float:
    """Share of the old average kept after optimizer step `step` (0-based): min(limit, (1 + step) / (10 + step)).

    Without this warm-up an average of decay 0.9999 would still be nine tenths of the first weights after 1000 steps.
    """
    return min(limit, (1 + step) / (10 + step))


class Average:
    """Moving average of the parameters, float32, on their device."""

    def __init__(self, parameters: Sequence[nn.Parameter], limit: float) -> None:
        self._parameters = tuple(parameters)
        self._limit = limit
        self.start()

    def start(self) -> None:
        """Reset the average to the present parameters."""
        self._means = [parameter.detach().float().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average after optimizer step `step` (0-based)."""
        new = 1 - decay(self._limit, step)
        # One kernel for all of them on a GPU.
        torch._foreach_lerp_(self._means, [parameter.float() for parameter in self._parameters], new)  # noqa: SLF001

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the parameters by the average inside the block; they are restored bit for bit."""
        raw = [parameter.data for parameter in self._parameters]
        try:
            for parameter, mean in zip(self._parameters, self._means, strict=True):
                parameter.data = mean
            yield
        finally:
            for parameter, values in zip(self._parameters, raw, strict=True):
                parameter.data = values
