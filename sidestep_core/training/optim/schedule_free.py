"""The averaged weights of a schedule-free optimizer (arXiv 2405.15682), which are those to measure and to publish.

Such an optimizer steps z, averages all z in x, and takes gradients at y between the two, which are the trained
parameters.  The package turns y into x and back in place, which rounds: here copies are turned, so that measuring and
saving change no bit of the training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import nn


class Switching(Protocol):
    """Optimizer that turns its parameters into their average and back."""

    def eval(self) -> None: ...

    def train(self) -> None: ...


class ScheduleFreeAverage:
    """x of a schedule-free optimizer; its state is the optimizer's."""

    def __init__(self, parameters: Sequence[nn.Parameter], optimizer: Switching) -> None:
        self._parameters = tuple(parameters)
        self._optimizer = optimizer

    def start(self) -> None:
        """Do nothing: the average begins with the optimizer's first step, or comes with its state."""

    def update(self, step: int) -> None:
        """Do nothing: the optimizer's step has updated it."""

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the parameters by the average inside the block; they are restored bit for bit."""
        trained = [parameter.data for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.data = parameter.data.clone()
        self._optimizer.eval()
        try:
            yield
        finally:
            self._optimizer.train()
            for parameter, values in zip(self._parameters, trained, strict=True):
                parameter.data = values
