"""Return to the start from an optimizer's first update, which makes the optimizer's state and so may run out of memory.

Some weights have changed by then and some not.  Later updates find their memory there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Start:
    """Weights and settings before the first update, in host memory."""

    optimizer: torch.optim.Optimizer
    weights: tuple[tuple[Tensor, Tensor], ...]
    """Parameter and its copy."""
    groups: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> Start | None:
        """Copy the start; None if there was an update before."""
        if optimizer.state:
            return None
        weights = tuple((parameter, parameter.detach().to("cpu", copy=True))
                        for group in optimizer.param_groups for parameter in group["params"])
        return cls(optimizer, weights, tuple(map(dict, optimizer.param_groups)))

    def restore(self) -> None:
        """Undo the update."""
        self.optimizer.state.clear()
        with torch.no_grad():
            for parameter, copy in self.weights:
                parameter.copy_(copy)
        for group, before in zip(self.optimizer.param_groups, self.groups, strict=True):
            group.clear()
            group.update(before)
