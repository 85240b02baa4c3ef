"""Dropout of an adapter's inputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zeroes inputs with chance p while training, and scales the others by 1 / (1 - p).

    On the CPU torch draws one number per input, a tenth of a whole training step; sixteen bits of an integer are as
    good and four times as fast.  They are drawn on the CPU wherever gradient checkpointing would not restore the
    device's own generator for the recomputation, as on MPS.  There p is rounded to a multiple of 2^-16.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type in ("cuda", "xpu"):
            return F.dropout(x, self.p, self.training)
        levels = 1 << 16
        dropped = round(self.p * levels)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        kept = draws.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - levels // 2
        return x * kept.to(x.device, x.dtype).mul_(levels / (levels - dropped))
