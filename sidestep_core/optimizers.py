"""Optimizers, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from .config import TrainConfig

WARMUP_START = 0.1
"""Warm-up begins at this share of the learning rate ..."""
COSINE_END = 0.01
"""... and the cosine ends at this one."""


def build(config: TrainConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW over the adapter's parameters; fused on CUDA."""
    fused = parameters[0].device.type == "cuda"
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)


def warmup_steps(config: TrainConfig) -> int:
    """Steps of warm-up really made: as asked, but at most a tenth of the run."""
    return min(config.warmup_steps, config.max_steps // 10)


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of optimizer step `step` (0-based): linear warm-up, then constant or a cosine to 1 %."""
    warmup = warmup_steps(config)
    if step < warmup:
        return config.learning_rate * (WARMUP_START + (1 - WARMUP_START) * step / warmup)
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, config.max_steps - 1 - warmup)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * (COSINE_END + (1 - COSINE_END) * cosine)
