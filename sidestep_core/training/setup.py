"""Preparation of a training: samples in memory, decoder and adapter on the device, and an optimizer."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import cast

import torch

from ..adapters import registry
from ..adapters.algorithm import LiveAdapter
from ..adapters.config import AdapterConfig
from ..adapters.targets import target_modules
from ..dataset.manifest import Dataset
from ..errors import ConfigError
from ..model import attention, compilation
from ..model.checkpoint import Checkpoint
from ..model.decoder import Decoder, DecoderGeometry
from ..model.loading import load
from . import data, memory
from .config import ResolvedConfig
from .heldout import material, passes, watch
from .loss import Objective
from .optim import optimizers
from .optim.ema import Average, Averaging
from .optim.schedule_free import ScheduleFreeAverage, Switching
from .parallel.ranks import ALONE, Ranks
from .resolve import Resolved
from .step import Training

log = logging.getLogger(__name__)


def prepare(checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig, settings: Resolved,
            ranks: Ranks = ALONE) -> Training:
    """Load samples and decoder, attach the adapter, and build the optimizer over exactly its parameters."""
    config = settings.config
    if config.cfg_ratio == 1 and adapter.attention_type == "cross":
        raise ConfigError("cfg_ratio 1 hides every caption, but attention_type 'cross' learns from captions only. "
                          "Lower cfg_ratio, or choose attention_type 'both'.")
    if config.lora_plus_ratio and not registry.trainable()[adapter.kind].low_rank:
        raise ConfigError(f"lora_plus_ratio is {config.lora_plus_ratio:g}, but LoRA+ is a rate for the B of a LoRA, "
                          f"and this is a {adapter.kind}. Set it to off, or train a LoRA.")
    trained_on, held = (data.open_samples(dataset, side, config) for side in material.split(dataset.samples, config))
    weights = checkpoint.model_weights()
    own = weights.under("decoder.")
    geometry = DecoderGeometry.from_weights(own)
    modules = target_modules(adapter, geometry.layers)
    kernel = attention.choose(config.attention, settings.device, settings.dtype)
    need = memory.plan(own, settings.holding, registry.capacity(adapter, geometry).total, modules, adapter.dropout,
                       trained_on, config, measured=held, flash=kernel != "sdpa", travelling=ranks.travelling)
    decoder = load(own, replace(settings.holding, offloaded=need.offloaded))
    decoder.attention = kernel
    decoder.recomputed_layers = need.recomputed
    live = registry.attach(decoder, adapter, modules, config.seed)
    log.info("Training %d modules, %d parameters, on %d song(s), %d held out; %s on %s.", len(modules),
             sum(parameter.numel() for parameter in live.parameters), len(trained_on), len(held), settings.dtype,
             settings.device)
    _compile(decoder, adapter, settings)
    optimizer = optimizers.build(config, live.parameters, live.undecayed, live.ups)
    objective = Objective.of(settings, decoder, weights, data.read_silence(dataset), live.switch)
    return Training(config=config, objective=objective, adapter=live, trained_on=trained_on, heldout=held,
                    optimizer=optimizer, average=_average(config, live, optimizer), need=need, ranks=ranks,
                    weights=own, watch=watch.choose(trained_on, held, config, objective.timesteps),
                    passes=passes.choose(held or trained_on, trained_on, config, objective.timesteps))


def _compile(decoder: Decoder, adapter: AdapterConfig, settings: Resolved) -> None:
    """Compile the layers if the settings ask for it."""
    obstacle = ""
    if not registry.trainable()[adapter.kind].is_traceable(adapter):
        obstacle = "that is only for a LoRA without DoRA"
    elif compilation.has_packed_weights(decoder):
        obstacle = "the model is kept in fewer bits or in the computer's memory"
    if compilation.choose(settings.config.compile, settings.device, settings.total_steps, obstacle):
        compilation.compile_layers(decoder)


def _average(config: ResolvedConfig, adapter: LiveAdapter, optimizer: torch.optim.Optimizer) -> Averaging | None:
    """Average of the weights that the settings ask for."""
    if config.optimizer == optimizers.SCHEDULE_FREE:
        return ScheduleFreeAverage(adapter.parameters, cast("Switching", optimizer))
    return Average(adapter.parameters, config.ema_decay) if config.ema_decay else None
