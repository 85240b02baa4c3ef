"""Gradients and losses of a step whose passes are shared by several processes: those of one process, bit for bit.

A sum of floating-point numbers depends on its order, and one process adds its passes one after the other.  So each
process owns a share of the numbers of a gradient: after each round of passes, one of each process, everyone sends every
owner its share (all-to-all), and the owners add what they received in the order of the passes.  In the end everyone
gathers the sums.  A round travels while the next one is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..loss import BatchLoss
from .ranks import Ranks, Sent

Group = TypeVar("Group")


def share_passes(ranks: Ranks, parameters: Sequence[nn.Parameter], groups: Sequence[Group],
                 backward: Callable[[Group], BatchLoss], others: Callable[[Group], BatchLoss]) -> list[BatchLoss]:
    """Do this rank's passes by `backward`; return the losses of all of them, and leave the sums of all gradients in the
    parameters.  `others` makes the zeros to which another rank's losses are added.
    """
    total, losses = OrderedSum(ranks, parameters), []
    for first in range(0, len(groups), ranks.count):
        passes = groups[first:first + ranks.count]
        losses += [backward(group) if ranks.takes(first + number) else others(group)
                   for number, group in enumerate(passes)]
        total.add(len(passes))
    total.finish()
    device = parameters[0].device
    everyone = [replace(loss, weighted_B=loss.weighted_B.float().to(device), loss_B=loss.loss_B.float().to(device),
                        t_B=loss.t_B.float().to(device)) for loss in losses]
    ranks.add([part for loss in everyone for part in (loss.weighted_B, loss.loss_B, loss.t_B)])
    return everyone


@dataclass(frozen=True)
class _Round:
    """Gradients on their way to the owners of their shares."""

    sent: Sent
    passes: int


class OrderedSum:
    """Sum of the gradients of passes in their order, of which each rank computes its share."""

    def __init__(self, ranks: Ranks, parameters: Sequence[nn.Parameter]) -> None:
        self._ranks, self._parameters = ranks, tuple(parameters)
        self._numbers = sum(parameter.numel() for parameter in self._parameters)
        self._share: Tensor | None = None
        self._round: _Round | None = None

    def add(self, passes: int) -> None:
        """Add a round of so many passes, one of each of the first ranks; take this rank's from its parameters."""
        flat = self._take()
        self._receive()
        self._round = _Round(self._ranks.send_shares(flat), passes)

    def finish(self) -> None:
        """Set the gradients of the parameters to the sums."""
        self._receive()
        assert self._share is not None
        flat = self._ranks.gather(self._share)[:self._numbers].to(self._parameters[0].device)
        sizes = [parameter.numel() for parameter in self._parameters]
        for parameter, part in zip(self._parameters, flat.split(sizes), strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(part.view_as(parameter))

    def _take(self) -> Tensor:
        """Take the gradients away, flat, padded to shares of equal length."""
        parts = [torch.zeros_like(parameter).flatten() if parameter.grad is None else parameter.grad.flatten()
                 for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        return torch.cat([*parts, parts[0].new_zeros(-self._numbers % self._ranks.count)])

    def _receive(self) -> None:
        """Add the shares of the last round in the order of its passes."""
        if self._round is None:
            return
        for share in self._round.sent.received()[:self._round.passes]:
            # The first is not added to zero, which would lose the sign of a zero.
            self._share = share.clone() if self._share is None else self._share.add_(share)
        self._round = None
