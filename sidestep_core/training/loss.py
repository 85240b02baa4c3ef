"""The flow-matching loss of a batch, and the held-out loss that judges progress.

All randomness follows from the seed and the number of the draw, so a batch's loss is a pure function of them.
Shapes: B batch, T latent frame, C channel, N condition tokens of all samples, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor

from .. import rng
from ..adapters.dropout import Switch
from ..device import send
from ..errors import TrainingDiverged
from ..model import flow_matching
from ..model.decoder import Decoder
from ..model.weights import Weights
from ..progress import Progress, Report, ignore
from . import batches
from .batches import Batch, Draw
from .config import ResolvedConfig
from .heldout.passes import Pass
from .metrics import LOSS_NAMES, MeasuredOn
from .resolve import Resolved

_LEAST = 1e-12
"""Loss below which a song counts as fully known."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Everything that a loss needs besides the batch."""

    config: ResolvedConfig
    decoder: Decoder
    silence_TC: Tensor
    null_condition_11D: Tensor
    device: torch.device
    dtype: torch.dtype
    adapter: Switch = field(default_factory=Switch)

    @classmethod
    def of(cls, settings: Resolved, decoder: Decoder, weights: Weights, silence_TC: Tensor,
           adapter: Switch | None = None) -> Self:
        """Objective of these settings on a decoder of the checkpoint whose model weights are `weights`."""
        null_condition_11D = weights.tensor("null_condition_emb", settings.dtype, settings.device)
        return cls(config=settings.config, decoder=decoder, silence_TC=silence_TC,
                   null_condition_11D=null_condition_11D, device=settings.device, dtype=settings.dtype,
                   adapter=adapter or Switch())

    @property
    def timesteps(self) -> flow_matching.TimestepDistribution:
        """Distribution of the training times."""
        config = self.config
        shifts = (1, 2, 3) if config.discrete_shift == "mixed" else (int(config.discrete_shift),)
        return flow_matching.TimestepDistribution(mode=config.timestep_mode, mu=config.timestep_mu,
                                                  sigma=config.timestep_sigma, shifts=shifts)

    @property
    def sampler_timesteps(self) -> flow_matching.TimestepDistribution:
        """Distribution of the times at which the adapter is trained to change nothing."""
        own = self.timesteps
        return own if own.mode == "discrete" else replace(own, mode="sampler")

    def predict(self, x_BTC: Tensor, t_B: Tensor, condition_1ND: Tensor, context_BTC: Tensor,
                tokens: Sequence[int]) -> Tensor:
        """Velocity of noisy latents at times, [B, T, C]."""
        # Base weights are in `dtype` already; autocast brings the float32 adapter to it for the products only.
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            predicted_BTC: Tensor = self.decoder(x_BTC, t_B, condition_1ND, context_BTC, tokens)
            return predicted_BTC

    @torch.no_grad()
    def predict_without_adapter(self, x_BTC: Tensor, t_B: Tensor, condition_1ND: Tensor, context_BTC: Tensor,
                                tokens: Sequence[int]) -> Tensor:
        """Prediction of the model as it was, in float32."""
        self.adapter.on = False
        try:
            return self.predict(x_BTC, t_B, condition_1ND, context_BTC, tokens).float()
        finally:
            self.adapter.on = True


@dataclass(frozen=True, kw_only=True)
class BatchLoss:
    """Loss and time of every sample of a batch."""

    weighted_B: Tensor
    """Minimised loss, with gradients: the loss times the weight of its time."""
    loss_B: Tensor
    """Displayed loss: without weights and gradients."""
    t_B: Tensor
    preserved: tuple[bool, ...]

    @classmethod
    def zeros(cls, group: Sequence[Draw]) -> BatchLoss:
        """Make the loss of a batch that another rank computes, to which its own is added."""
        weighted, loss, t = (torch.zeros(len(group)) for _ in range(3))
        return cls(weighted_B=weighted, loss_B=loss, t_B=t, preserved=tuple(draw.preserved for draw in group))


def training_loss(objective: Objective, batch: Batch) -> BatchLoss:
    """Flow-matching loss per sample; times, noise and dropped conditions are random by draw."""
    config = objective.config
    # "visit" is part of the random numbers: another word would change every run.
    generators = [rng.generator(config.seed, "visit", draw) for draw in batch.draws]
    t_B = _times(objective, batch, generators)
    dropped_B = torch.cat([flow_matching.drop_conditions(1, config.cfg_ratio, random) for random in generators])
    noise_BTC = torch.cat([flow_matching.noise_like(batch.x0_BTC[:1], random) for random in generators])
    dropped_N = dropped_B.repeat_interleave(torch.tensor(batch.tokens), output_size=sum(batch.tokens))
    t_B, dropped_B, dropped_1N1 = (send(part, objective.device) for part in (t_B, dropped_B, dropped_N[None, :, None]))
    condition_1ND = torch.where(dropped_1N1, objective.null_condition_11D, batch.condition_1ND)
    x_BTC = flow_matching.interpolate(batch.x0_BTC, noise_BTC, t_B).to(objective.dtype)
    predicted_BTC = objective.predict(x_BTC, t_B, condition_1ND, batch.context_BTC, batch.tokens)
    target_BTC = flow_matching.velocity(batch.x0_BTC, noise_BTC)
    if config.guidance:
        guided_BTC = _guided(objective, batch, x_BTC, t_B, target_BTC)
        target_BTC = torch.where(dropped_B[:, None, None], target_BTC, guided_BTC)
    if any(batch.preserved):
        _preserve(objective, batch, x_BTC, t_B, condition_1ND, target_BTC)
    loss_B = flow_matching.loss_per_sample(predicted_BTC, target_BTC)
    weights_B = flow_matching.loss_weights(t_B, config.loss_weighting, config.snr_gamma)
    return BatchLoss(weighted_B=loss_B * weights_B, loss_B=loss_B.detach(), t_B=t_B, preserved=batch.preserved)


def _times(objective: Objective, batch: Batch, generators: Sequence[torch.Generator]) -> Tensor:
    laws = [objective.sampler_timesteps if preserved else objective.timesteps for preserved in batch.preserved]
    # Drawn from the generators in any case, so that the noise is the same however times are spread.
    drawn = [flow_matching.sample_times(law, 1, random) for law, random in zip(laws, generators, strict=True)]
    if batch.shares is None:
        return torch.cat(drawn)
    return torch.cat([flow_matching.times_at(law, torch.tensor([share], dtype=torch.float64))
                      for law, share in zip(laws, batch.shares, strict=True)])


def _guided(objective: Objective, batch: Batch, x_BTC: Tensor, t_B: Tensor, target_BTC: Tensor) -> Tensor:
    """Targets with the guidance that is built into the model: a distilled one predicts u + g (v - u), u without a
    condition."""
    samples = len(batch.tokens)
    free_BTC = objective.predict_without_adapter(
        x_BTC, t_B, objective.null_condition_11D.expand(1, samples, -1), batch.context_BTC, [1] * samples)
    return free_BTC + objective.config.guidance * (target_BTC - free_BTC)


def _preserve(objective: Objective, batch: Batch, x_BTC: Tensor, t_B: Tensor, condition_1ND: Tensor,
              target_BTC: Tensor) -> None:
    """Put the model's own prediction in place of the targets of preserved samples."""
    rows = [row for row, preserved in enumerate(batch.preserved) if preserved]
    conditions = condition_1ND[0].split(batch.tokens)
    index = send(torch.tensor(rows), objective.device)
    target_BTC[index] = objective.predict_without_adapter(
        x_BTC[index], t_B[index], torch.cat([conditions[row] for row in rows])[None], batch.context_BTC[index],
        [batch.tokens[row] for row in rows])


def pass_losses(objective: Objective, one: Pass, *noise: int | str, without_adapter: bool = False) -> Iterator[Tensor]:
    """Yield the unweighted loss of a pass with the noise of this name, and on request that without the adapter."""
    batch = batches.single(one.sample, one.start, objective.silence_TC, objective.config)
    batch = batch.to(objective.device, objective.dtype)
    noise_BTC = flow_matching.noise_like(batch.x0_BTC, rng.generator(objective.config.seed, *noise))
    t_B = torch.full((1,), one.time, device=objective.device)
    x_BTC = flow_matching.interpolate(batch.x0_BTC, noise_BTC, t_B).to(objective.dtype)
    for predict in (objective.predict, *([objective.predict_without_adapter] if without_adapter else [])):
        predicted_BTC = predict(x_BTC, t_B, batch.condition_1ND, batch.context_BTC, batch.tokens)
        target_BTC = flow_matching.velocity(batch.x0_BTC, noise_BTC)
        yield flow_matching.loss_per_sample(predicted_BTC, target_BTC)


def _noise(one: Pass) -> tuple[str, str, str]:
    return "heldout", one.sample.name, one.noise


@dataclass(frozen=True, kw_only=True)
class HeldoutLoss:
    """Unweighted losses of the passes of a measurement."""

    mean: float
    losses: tuple[float, ...]


@torch.no_grad()
def heldout_loss(objective: Objective, passes: Sequence[Pass], progress: Progress,
                 report: Report = ignore, *, measured_on: MeasuredOn = "held_out") -> HeldoutLoss:
    """Loss of fixed crops at fixed times with fixed noise, no dropout: comparable from step to step.

    Uses each song's caption, and a context of silence unless training always has codes.  `progress` is reported after
    each pass.
    """
    config = objective.config
    objective.decoder.eval()
    losses: list[Tensor] = []
    for one in passes:
        losses += pass_losses(objective, one, *_noise(one))
        report(progress)
    flat = torch.cat(losses).cpu()
    mean = float(flat.mean())
    if not math.isfinite(mean):
        advice = (f"Lower the learning rate, which is {config.learning_rate:g} (0.0001 is usual), or use fp32."
                  if progress.step else
                  "Nothing was learned yet: use precision fp32. If that does not help, preprocess the songs again.")
        raise TrainingDiverged(f"The {LOSS_NAMES[measured_on]} is {mean} at step {progress.step}. {advice}")
    return HeldoutLoss(mean=mean, losses=tuple(flat.tolist()))


@torch.no_grad()
def falls(objective: Objective, passes: Sequence[Pass], progress: Progress, report: Report = ignore) -> list[float]:
    """Logarithms of the loss without the adapter over that with it, of each pass.  `progress` is reported after each.

    TrainingDiverged if a loss is not finite.
    """
    objective.decoder.eval()
    found = []
    for one in passes:
        losses = [*pass_losses(objective, one, *_noise(one), without_adapter=True)]
        now, before = torch.cat(losses).clamp(min=_LEAST).tolist()
        found.append(math.log(before / now) if math.isfinite(now) else math.nan)
        if not math.isfinite(found[-1]):
            raise TrainingDiverged(f"The loss of {one.sample.name} is {now:g} at step {progress.step}, and {before:g} "
                                   "without the adapter. Lower the learning rate, or use precision fp32.")
        report(progress)
    return found
