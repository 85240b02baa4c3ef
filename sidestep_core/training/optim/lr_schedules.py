"""Learning rate as a pure function of the step, so that a resumed run needs no saved schedule."""

from __future__ import annotations

import math

from ..config import ResolvedConfig

WARMUP_START = 0.1
"""Share of the learning rate at the start of warm-up."""
END = 0.01
"""Share of the learning rate at the end of cosines and the line."""
WARMUP_SHARE = 10
"""Warm-up takes at most 1 / WARMUP_SHARE of the run."""


def warmup_steps(config: ResolvedConfig, total: int) -> int:
    """Steps of warm-up in a run of `total`: the setting, but at most a tenth; none for constant."""
    return 0 if config.schedule == "constant" else min(config.warmup_steps, total // WARMUP_SHARE)


def learning_rate(config: ResolvedConfig, total: int, step: int) -> float:
    """Learning rate of optimizer step `step` (0-based) of `total`: linear warm-up, then the schedule."""
    warmup = warmup_steps(config, total)
    if step < warmup:
        return config.learning_rate * (WARMUP_START + (1 - WARMUP_START) * step / warmup)
    return config.learning_rate * _share(config, total - warmup, step - warmup)


def _share(config: ResolvedConfig, steps: int, step: int) -> float:
    """Share of the learning rate in step `step` of the `steps` after warm-up."""
    if config.schedule in ("constant", "constant_with_warmup"):
        return 1.0
    if config.schedule == "cosine_restarts":
        start, end = _cycle(min(config.restarts, max(1, steps // 2)), steps, step)
        return _cosine((step - start) / max(1, end - 1 - start))
    progress = step / max(1, steps - 1)
    return END + (1 - END) * (1 - progress) if config.schedule == "linear" else _cosine(progress)


def _cosine(progress: float) -> float:
    return END + (1 - END) * (1 + math.cos(math.pi * progress)) / 2


def _cycle(cycles: int, steps: int, step: int) -> tuple[int, int]:
    """First step of the cycle around `step`, and of the next one.

    Cycles differ by one step where `steps` is no multiple of them, so that the last ends with the run: a fixed length
    would let the run end just after a restart, at the full rate.
    """
    number = step * cycles // steps
    return -(-number * steps // cycles), -(-(number + 1) * steps // cycles)
