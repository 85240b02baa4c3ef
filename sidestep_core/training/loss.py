"""What is minimised: the flow-matching loss of a batch, and the held-out loss by which progress is judged.

All randomness hangs on the seed and the number of the visit, so a batch's loss is a pure function of them.
Shapes: B batch, T latent frame, C channel, S condition token, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from .. import rng
from ..errors import TrainingDiverged
from ..model import flow_matching
from ..model.checkpoint import Checkpoint
from ..model.decoder import Decoder
from ..model.weights import Weights
from ..progress import Progress, Report, ignore
from . import batches
from .batches import Batch
from .config import AUTO, TrainConfig
from .data import Sample
from .metrics import CALLED, MeasuredOn

CFG_RATIO = 0.15
"""Share of conditions that ACE-Step 1.5 was itself trained without."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Everything that a loss needs besides the batch."""

    config: TrainConfig
    timesteps: flow_matching.TimestepDistribution
    cfg_ratio: float
    decoder: Decoder
    silence_TC: Tensor
    null_condition_11D: Tensor
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, checkpoint: Checkpoint, config: TrainConfig, decoder: Decoder, weights: Weights, silence_TC: Tensor,
           device: torch.device, dtype: torch.dtype) -> Self:
        """What this config asks for on this checkpoint, whose model weights are `weights`."""
        return cls(config=config, timesteps=timestep_distribution(config, checkpoint),
                   cfg_ratio=cfg_ratio(config, checkpoint), decoder=decoder, silence_TC=silence_TC,
                   null_condition_11D=weights.tensor("null_condition_emb", dtype, device), device=device, dtype=dtype)


def timestep_distribution(config: TrainConfig, checkpoint: Checkpoint) -> flow_matching.TimestepDistribution:
    """How times are drawn; auto is the model's own continuous law on every variant.

    Turbo's own training code draws continuous times too, and with another sampler, shift or number of steps it meets
    other times than its eight; those are there for who wants exactly them.
    """
    own = {"model": (checkpoint.timestep_mu, checkpoint.timestep_sigma),
           "custom": (config.timestep_mu, config.timestep_sigma)}
    mu, sigma = (own | flow_matching.TIMESTEP_PRESETS)[config.timestep_preset]
    shifts = (1, 2, 3) if config.discrete_shift == "mixed" else (int(config.discrete_shift),)
    mode = "continuous" if config.timestep_mode == "auto" else config.timestep_mode
    return flow_matching.TimestepDistribution(mode=mode, mu=mu, sigma=sigma, shifts=shifts)


def cfg_ratio(config: TrainConfig, checkpoint: Checkpoint) -> float:
    """The share of conditions that are dropped; auto drops none where only turbo's own guidance-free times count."""
    if config.cfg_ratio != AUTO:
        return config.cfg_ratio
    return 0.0 if checkpoint.variant == "turbo" and config.timestep_mode == "discrete" else CFG_RATIO


@dataclass(frozen=True, kw_only=True)
class BatchLoss:
    """Loss and time of every sample of a batch."""

    weighted_B: Tensor
    """What is minimised, with gradients: the loss times the weight of its time."""
    loss_B: Tensor
    """What is shown: the same without weights and without gradients."""
    t_B: Tensor


def training_loss(objective: Objective, batch: Batch) -> BatchLoss:
    """Flow-matching loss per sample; random times, noise and dropped conditions by visit."""
    config = objective.config
    draws = [rng.generator(config.seed, "visit", visit) for visit in batch.visits]
    t_B = torch.cat([flow_matching.sample_times(objective.timesteps, 1, random) for random in draws])
    dropped_B = torch.cat([flow_matching.drop_conditions(1, objective.cfg_ratio, random) for random in draws])
    noise_BTC = torch.cat([flow_matching.noise_like(batch.x0_BTC[:1], random) for random in draws])
    t_B, dropped_B = t_B.to(objective.device), dropped_B.to(objective.device)
    condition_BSD = torch.where(dropped_B[:, None, None], objective.null_condition_11D, batch.condition_BSD)
    loss_B = _loss(objective, batch, condition_BSD, t_B, noise_BTC)
    weights_B = flow_matching.loss_weights(t_B, config.loss_weighting, config.snr_gamma)
    return BatchLoss(weighted_B=loss_B * weights_B, loss_B=loss_B.detach(), t_B=t_B)


def _loss(objective: Objective, batch: Batch, condition_BSD: Tensor, t_B: Tensor, noise_BTC: Tensor) -> Tensor:
    x_BTC = flow_matching.interpolate(batch.x0_BTC, noise_BTC, t_B).to(objective.dtype)
    # Base weights are in `dtype` already; autocast brings the float32 adapter to it for the products only.
    with torch.autocast(objective.device.type, dtype=objective.dtype, enabled=objective.dtype != torch.float32):
        predicted_BTC = objective.decoder(x_BTC, t_B, condition_BSD, batch.context_BTC)
    return flow_matching.loss_per_sample(predicted_BTC, flow_matching.velocity(batch.x0_BTC, noise_BTC))


@dataclass(frozen=True, kw_only=True)
class HeldoutLoss:
    """Mean over all samples and times, and over all samples at each of flow.HELDOUT_TIMES; never weighted."""

    mean: float
    by_time: tuple[float, ...]


@torch.no_grad()
def heldout_loss(objective: Objective, samples: Sequence[Sample], progress: Progress,
                 report: Report = ignore, *, measured_on: MeasuredOn = "held_out") -> HeldoutLoss:
    """Loss over the samples at fixed times with fixed noise, no dropout: comparable from step to step.

    With each song's caption, and in the context of silence unless training always has codes.  `progress` is what is
    reported after each of them.
    """
    config = objective.config
    objective.decoder.eval()
    losses = []
    for sample in samples:
        batch = batches.whole(sample, objective.silence_TC, config).to(objective.device, objective.dtype)
        for time in flow_matching.HELDOUT_TIMES:
            generator = rng.generator(config.seed, "heldout", sample.name, str(time))
            noise_BTC = flow_matching.noise_like(batch.x0_BTC, generator)
            t_B = torch.full((1,), time, device=objective.device)
            losses.append(_loss(objective, batch, batch.condition_BSD, t_B, noise_BTC).cpu())
            report(progress)
    flat = torch.cat(losses)
    mean = float(flat.mean())
    if not math.isfinite(mean):
        advice = (f"Lower the learning rate, which is {config.learning_rate:g} (0.0001 is usual), or use fp32."
                  if progress.step else
                  "Nothing was learned yet: use precision fp32; if that does not help, preprocess the songs again.")
        raise TrainingDiverged(f"The {CALLED[measured_on]} is {mean} at step {progress.step}. {advice}")
    by_time = flat.view(-1, len(flow_matching.HELDOUT_TIMES)).mean(dim=0)
    return HeldoutLoss(mean=mean, by_time=tuple(by_time.tolist()))
