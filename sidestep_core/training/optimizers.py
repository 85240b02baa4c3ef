"""The optimizers, with Side-Step's arguments, and what of the settings they overrule."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from .. import optional
from .config import Optimizer, TrainConfig
from .lr_schedules import WARMUP_SHARE, warmup_steps

STATE_BYTES: dict[Optimizer, float] = {"adamw": 8.0, "adamw8bit": 2.1, "adafactor": 0.2, "prodigy": 16.0}
"""What each keeps per parameter: two moments; the same in bytes with a scale per 256; row and column means; two
moments, the start and the sum of gradients."""


def build(config: TrainConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer over the adapter's parameters.  MissingDependency with the pip line where its package lacks."""
    if config.optimizer == "adamw8bit":
        return _adamw8bit(config, parameters)
    if config.optimizer == "adafactor":
        return _adafactor(config, parameters)
    if config.optimizer == "prodigy":
        return _prodigy(config, parameters)
    fused = parameters[0].device.type == "cuda"
    return torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=fused)


def _adamw8bit(config: TrainConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    with _needs("adamw8bit", "bitsandbytes"):
        from bitsandbytes.optim.adamw import AdamW8bit
    optimizer = AdamW8bit(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    return cast("torch.optim.Optimizer", optimizer)


def _adafactor(config: TrainConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """torch's own cannot switch off its scaling by the size of a parameter, which keeps a LoRA's B, zero at first, at a
    thousandth of the rate."""
    with _needs("adafactor", "transformers"):
        from transformers.optimization import Adafactor
    optimizer = Adafactor(parameters, lr=config.learning_rate, weight_decay=config.weight_decay,
                          scale_parameter=False, relative_step=False)
    return cast("torch.optim.Optimizer", optimizer)


def _prodigy(config: TrainConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    with _needs("prodigy", "prodigyopt"):
        from prodigyopt import Prodigy
    optimizer = Prodigy(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99),
                        safeguard_warmup=True, use_bias_correction=True)
    return cast("torch.optim.Optimizer", optimizer)


def _needs(optimizer: Optimizer, package: str) -> AbstractContextManager[None]:
    return optional.imports(package, f"The optimizer {optimizer}", "; or choose the optimizer adamw, which needs none")


def require(optimizer: str) -> None:
    """Build the optimizer over nothing much, so that its package is imported.  Raises MissingDependency."""
    builders = {"adamw8bit": _adamw8bit, "adafactor": _adafactor, "prodigy": _prodigy}
    if optimizer in builders:
        builders[optimizer](TrainConfig(), [nn.Parameter(torch.zeros(1))])


def effective(config: TrainConfig) -> TrainConfig:
    """The settings as they are used: prodigy finds the rate itself, and only at 1.0 and constant."""
    return replace(config, learning_rate=1.0, schedule="constant") if config.optimizer == "prodigy" else config


def overruled(config: TrainConfig, total: int) -> list[str]:
    """What of the settings is not followed in a run of `total` steps, for telling people."""
    used = effective(config)
    told = []
    if used != config:
        told.append(f"prodigy finds the learning rate itself: it runs at learning_rate 1.0 and schedule constant, not "
                    f"at {config.learning_rate:g} and {config.schedule}.")
    made = warmup_steps(used, total)
    if used.schedule != "constant" and made < used.warmup_steps:
        told.append(f"Warm-up takes {made} steps, not {used.warmup_steps}: at most one in {WARMUP_SHARE} of the run's "
                    f"{total}.")
    return told
