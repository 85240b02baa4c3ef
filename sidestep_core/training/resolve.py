"""The door of a training: automatic settings become values, and people learn which of theirs are not followed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..config import require
from ..dataset.manifest import Dataset
from ..device import choose_device, choose_dtype
from ..errors import DatasetError
from ..model.checkpoint import Checkpoint
from ..model.flow_matching import TIMESTEP_PRESETS
from ..model.holding import Holding
from . import batches, early_stopping
from .config import ResolvedConfig, TrainConfig
from .heldout import material
from .optim.lr_schedules import WARMUP_SHARE, warmup_steps
from .optim.optimizers import SCHEDULE_FREE

CFG_RATIO = 0.15
"""Share of conditions that ACE-Step 1.5 was itself trained without."""

SAMPLING = {
    "turbo": (3.0, 8),
    "base": (1.0, 50),
    "sft": (1.0, 50),
}
"""Usual shift and steps of each variant."""


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Settings without anything automatic, the device and precision they chose, and notices for the person."""

    config: ResolvedConfig
    device: torch.device
    dtype: torch.dtype
    """Precision of the frozen base model."""
    total_steps: int
    notices: tuple[str, ...]
    """Sentences about settings that are not followed as given."""

    @property
    def holding(self) -> Holding:
        """Form of the base model's weights, with all layers on the device."""
        return Holding(precision=self.config.base_precision, dtype=self.dtype, device=self.device)


def resolve(config: TrainConfig, checkpoint: Checkpoint, dataset: Dataset) -> Resolved:
    """Settle every automatic setting for this checkpoint and dataset.

    ConfigError if the device is not available, if settings need held-out songs and there are none, or if the optimizer
    cannot follow one; DatasetError if no song would be left to train on, or the dataset is a part of one.
    """
    if dataset.shard is not None:
        raise DatasetError(f"{dataset.folder.name} is {dataset.shard} of a dataset and lacks the songs of the others. "
                           "Merge the shards, and use the result.")
    require(config.lora_plus_ratio == 0 or config.optimizer != "prodigy",
            f"lora_plus_ratio is {config.lora_plus_ratio:g}, but prodigy finds one learning rate for all weights. Set "
            "it to off, or choose the optimizer adamw.")
    require(config.ema_decay == 0 or config.optimizer != SCHEDULE_FREE,
            f"ema_decay is {config.ema_decay:g}, but {SCHEDULE_FREE} averages the weights itself. Set it to off, or "
            "choose the optimizer adamw.")
    mode = _timestep_mode(config, checkpoint)
    mu, sigma = _time_distribution(config, checkpoint)
    shift, steps = sampling(config, checkpoint)
    values = {
        **config.to_json(), **_rate(config), "timestep_mode": mode, "timestep_mu": mu, "timestep_sigma": sigma,
        "cfg_ratio": _cfg_ratio(mode, checkpoint) if config.cfg_ratio is None else config.cfg_ratio,
        "genre_ratio": dataset.genre_ratio if config.genre_ratio is None else config.genre_ratio,
        **material.resolved(config, dataset.samples),
        "shift": shift,
        "inference_steps": steps,
    }
    resolved = ResolvedConfig.from_json(values)
    early_stopping.check(resolved)
    device = choose_device(config.device)
    trained_on, _ = material.split(dataset.samples, resolved)
    total = resolved.total_steps(batches.draws_per_epoch(trained_on))
    return Resolved(config=resolved, device=device, dtype=choose_dtype(config.precision, device), total_steps=total,
                    notices=tuple(_notices(config, resolved, total)))


def sampling(config: TrainConfig, checkpoint: Checkpoint) -> tuple[float, int]:
    """Shift and number of steps for sampling with an adapter of this training."""
    shift, steps = SAMPLING[checkpoint.variant]
    return config.shift or shift, config.inference_steps or steps


def _rate(config: TrainConfig) -> dict[str, float | str]:
    """Settle the learning rate and its schedule."""
    if config.optimizer == SCHEDULE_FREE:
        return {"schedule": "constant" if config.schedule == "constant" else "constant_with_warmup"}
    prodigy = config.optimizer == "prodigy"
    usual = "constant" if prodigy else "cosine"
    return {"learning_rate": 1.0 if prodigy else config.learning_rate,
            "schedule": usual if config.schedule == "auto" else config.schedule}


def _timestep_mode(config: TrainConfig, checkpoint: Checkpoint) -> str:
    """Train a distilled model where it samples: times that turbo never visits would undo its distillation."""
    if config.timestep_mode != "auto":
        return config.timestep_mode
    return "discrete" if checkpoint.variant == "turbo" else "continuous"


def _time_distribution(config: TrainConfig, checkpoint: Checkpoint) -> tuple[float, float]:
    """Mean and deviation of the logit-normal draws of times."""
    if config.timestep_preset == "model":
        return checkpoint.timestep_mu, checkpoint.timestep_sigma
    if config.timestep_preset == "custom":
        return config.timestep_mu, config.timestep_sigma
    return TIMESTEP_PRESETS[config.timestep_preset]


def _cfg_ratio(timestep_mode: str, checkpoint: Checkpoint) -> float:
    """Drop no condition if only turbo's own guidance-free times are trained; else as many as the model's training."""
    return 0.0 if checkpoint.variant == "turbo" and timestep_mode in ("discrete", "sampler") else CFG_RATIO


def _notices(config: TrainConfig, resolved: ResolvedConfig, total: int) -> Iterator[str]:
    if config.learning_rate != resolved.learning_rate:
        yield (f"prodigy finds the learning rate itself: it runs at learning_rate 1.0, not at "
               f"{config.learning_rate:g}.")
    if config.schedule not in ("auto", resolved.schedule):
        yield (f"{config.optimizer} averages the weights in place of a schedule: it runs at {resolved.schedule}, not "
               f"at {config.schedule}.")
    made = warmup_steps(resolved, total)
    if resolved.schedule != "constant" and made < resolved.warmup_steps:
        yield (f"Warm-up takes {made} steps, not {resolved.warmup_steps}: at most one in {WARMUP_SHARE} of the run's "
               f"{total}.")
