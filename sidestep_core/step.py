"""One training step: flow matching on a frozen decoder with an adapter, and the held-out loss.

A step is a pure function of the seed and its number: which songs, which windows, which noise, which times, which
dropped conditions.  So a run that was stopped and continued equals one that was never stopped, and the batch size
changes only the speed.
Shapes: B batch, T latent frame, C channel, S condition token, D width.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import dataset as data
from . import flow, lora, optimizers
from .checkpoint import Checkpoint
from .config import LoraConfig, TrainConfig
from .dataset import Batch, Dataset, Sample
from .decoder import Decoder, load_decoder
from .device import choose_dtype
from .errors import ConfigError, TrainingDiverged
from .progress import Progress, Report, ignore
from .targets import target_modules

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything a step needs."""

    config: TrainConfig
    law: flow.TimestepLaw
    decoder: Decoder
    parameters: tuple[nn.Parameter, ...]
    optimizer: torch.optim.Optimizer
    trained_on: tuple[Sample, ...]
    measured_on: tuple[Sample, ...]
    """Held-out songs; the trained ones when none are held out."""
    silence_TC: Tensor
    null_condition_11D: Tensor
    device: torch.device
    dtype: torch.dtype


def prepare(checkpoint: Checkpoint, dataset: Dataset, adapter: LoraConfig, config: TrainConfig,
            device: torch.device) -> Training:
    """Samples in memory, decoder and adapter on the device, optimizer over exactly the adapter."""
    if config.cfg_ratio == 1 and adapter.attention == "cross":
        raise ConfigError("cfg_ratio 1 hides every caption, but attention 'cross' learns from captions only. "
                          "Lower cfg_ratio, or choose attention 'both'.")
    dtype = choose_dtype(config.precision, device)
    samples, silence_TC = data.load_samples(dataset)
    trained_on, heldout = data.split_heldout(samples, config)
    weights = checkpoint.model_weights()
    decoder = load_decoder(weights.under("decoder."), dtype, device)
    modules = target_modules(adapter, decoder.geometry.layers)
    parameters = lora.attach(decoder, adapter, modules, config.seed)
    decoder.gradient_checkpointing = config.gradient_checkpointing
    log.info("Training %d modules, %d parameters, on %d song(s), %d held out; %s on %s.", len(modules),
             sum(parameter.numel() for parameter in parameters), len(trained_on), len(heldout), dtype, device)
    return Training(
        config=config,
        law=flow.TimestepLaw(
            mu=checkpoint.timestep_mu if config.timestep_mu is None else config.timestep_mu,
            sigma=checkpoint.timestep_sigma if config.timestep_sigma is None else config.timestep_sigma,
        ),
        decoder=decoder,
        parameters=parameters,
        optimizer=optimizers.build(config, parameters),
        trained_on=trained_on,
        measured_on=heldout or trained_on,
        silence_TC=silence_TC,
        null_condition_11D=weights.tensor("null_condition_emb", dtype, device),
        device=device,
        dtype=dtype,
    )


def optimizer_step(training: Training, step: int, report: Report = ignore) -> dict[str, float]:
    """One optimizer step (0-based) over batch_size * gradient_accumulation samples; returns its numbers.

    The gradient is that of the mean loss per sample.  TrainingDiverged, before anything is changed, when the loss or
    the gradient is not finite or no gradient arrives.
    """
    config = training.config
    samples_per_step = config.batch_size * config.gradient_accumulation
    training.decoder.train()
    loss = torch.zeros((), device=training.device)
    for number, batch in enumerate(data.batches(training.trained_on, training.silence_TC, config, step)):
        torch.manual_seed(flow.seed(config.seed, "dropout", step, number))
        batch_loss = training_loss(training, batch.to(training.device, training.dtype)).sum() / samples_per_step
        batch_loss.backward()
        loss += batch_loss.detach()
        report(Progress(stage="train", step=step, total=config.max_steps))
    gradient = torch.nn.utils.clip_grad_norm_(training.parameters, config.max_grad_norm)
    numbers = {"loss": float(loss), "gradient": float(gradient), "lr": optimizers.learning_rate(config, step),
               "epoch": (step + 1) * samples_per_step / len(training.trained_on)}
    _check_healthy(numbers, step)
    for group in training.optimizer.param_groups:
        group["lr"] = numbers["lr"]
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    return numbers


def _check_healthy(numbers: Mapping[str, float], step: int) -> None:
    for name in ("loss", "gradient"):
        if not math.isfinite(numbers[name]):
            raise TrainingDiverged(f"The {name} became {numbers[name]} in step {step + 1}. Lower the learning rate, or "
                                   "use precision fp32; the last checkpoint of the run is untouched.")
    if numbers["gradient"] == 0:
        raise TrainingDiverged(f"No gradient reached the adapter in step {step + 1}; training would change nothing. "
                               "Adapt more projections, or lower cfg_ratio.")


def training_loss(training: Training, batch: Batch) -> Tensor:
    """Flow-matching loss per sample [B], with gradients; random times, noise and dropped conditions by visit."""
    config = training.config
    draws = [flow.generator(config.seed, "visit", visit) for visit in batch.visits]
    t_B = torch.cat([flow.sample_times(training.law, 1, random) for random in draws]).to(training.device)
    dropped_B = torch.cat([flow.drop_conditions(1, config.cfg_ratio, random) for random in draws]).to(training.device)
    noise_BTC = torch.cat([flow.noise_like(batch.x0_BTC[:1], random) for random in draws])
    condition_BSD = torch.where(dropped_B[:, None, None], training.null_condition_11D, batch.condition_BSD)
    return _loss(training, batch, condition_BSD, t_B, noise_BTC)


def _loss(training: Training, batch: Batch, condition_BSD: Tensor, t_B: Tensor, noise_BTC: Tensor) -> Tensor:
    x_BTC = flow.interpolate(batch.x0_BTC, noise_BTC, t_B).to(training.dtype)
    # Base weights are in `dtype` already; autocast brings the float32 adapter to it for the products only.
    with torch.autocast(training.device.type, dtype=training.dtype, enabled=training.dtype != torch.float32):
        predicted_BTC = training.decoder(x_BTC, t_B, condition_BSD, batch.context_BTC)
    return flow.loss_per_sample(predicted_BTC, flow.velocity(batch.x0_BTC, noise_BTC))


@torch.no_grad()
def heldout_loss(training: Training, step: int, report: Report = ignore) -> float:
    """Mean loss over the held-out songs at fixed times with fixed noise, no dropout: comparable from step to step."""
    config = training.config
    training.decoder.eval()
    losses = []
    for sample in training.measured_on:
        batch = data.whole(sample, training.silence_TC, config).to(training.device, training.dtype)
        for time in flow.HELDOUT_TIMES:
            noise_BTC = flow.noise_like(batch.x0_BTC, flow.generator(config.seed, "heldout", sample.name, str(time)))
            t_B = torch.full((1,), time, device=training.device)
            losses.append(_loss(training, batch, batch.condition_BSD, t_B, noise_BTC).cpu())
            report(Progress(stage="train", step=step, total=config.max_steps, message="Measuring the held-out loss"))
    mean = float(torch.cat(losses).mean())
    if not math.isfinite(mean):
        raise TrainingDiverged(f"The held-out loss is {mean} at step {step}. Use precision fp32, or check the dataset.")
    return mean
