"""Repetition of work that ran out of memory, in less of it: a step has the same draws and so the same result."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from ... import optional
from ...config import BasePrecision
from ...device import is_out_of_memory, release_memory
from ...model.holding import Holding
from ...model.loading import hold
from ...model.packed import QUANTISERS
from ...progress import Progress, Report
from ...sentence import Sentence
from ..planning import host_memory
from ..step import Training

log = logging.getLogger(__name__)

_PROJECTION = "layers.0.self_attn.q_proj.weight"
"""Weight whose format in the file all layers have."""

Result = TypeVar("Result")
StepDown = Callable[[int], Sentence]
"""Makes a training take less memory in a step (1-based), and returns a sentence on it."""


def with_less_memory(work: Callable[[], Result], training: Training, step: int, report: Report) -> Result:
    """Do the work of a step (0-based).  Each time memory runs out, free some in the way that costs least, and repeat
    it: recompute every layer, keep the layers in host memory, or, if that is allowed, hold them in fewer bits.
    """
    while True:
        try:
            return work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # They hold the tensors of the work that failed, and torch's hooks of a layer that was to be recomputed,
            # which would act on everything from here on.
            traceback.clear_frames(error.__traceback__)
            step_down = next_step_down(training)
            if step_down is None:
                raise
        training.optimizer.zero_grad(set_to_none=True)
        release_memory(training.objective.device)
        notice = step_down(step + 1)
        release_memory(training.objective.device)
        log.warning(notice)
        report(Progress(stage="train", step=step, total=training.total_steps, notice=notice))


def next_step_down(training: Training) -> StepDown | None:
    """Choose the cheapest way left to take less memory; None if there is none."""
    decoder, config = training.objective.decoder, training.config
    layers, holding = decoder.geometry.layers, _holding(training)
    if decoder.recomputed_layers < layers:
        return lambda step: _recompute_all(training, step)
    offloadable = host_memory.offloadable(layers, training.need.layer_weights, config, holding.device)
    if offloadable > holding.offloaded:
        return lambda step: _offload(training, offloadable, step)
    fewer = _fewer_bits(training) if config.allow_fewer_bits else None
    return None if fewer is None else lambda step: _lower(training, fewer, step)


def lower_precision(training: Training, precision: BasePrecision) -> None:
    """Hold the layers in this precision from now on."""
    hold(training.objective.decoder, training.weights, replace(_holding(training), precision=precision))


def lowered(training: Training) -> BasePrecision | None:
    """Precision that the layers were brought to when memory ran out; None while they are held as configured."""
    precision = _holding(training).precision
    return None if precision == training.config.base_precision else precision


def _holding(training: Training) -> Holding:
    holding = training.objective.decoder.holding
    assert holding is not None
    return holding


def _recompute_all(training: Training, step: int) -> Sentence:
    decoder = training.objective.decoder
    decoder.recomputed_layers = decoder.geometry.layers
    return Sentence("Out of memory in step {step}: from here on every layer is recomputed in the backward pass, which "
                    "is slower. The result is the same.", step=step)


def _offload(training: Training, layers: int, step: int) -> Sentence:
    hold(training.objective.decoder, training.weights, replace(_holding(training), offloaded=layers))
    return Sentence("Out of memory in step {step}: from here on the model's layers wait in the computer's memory, "
                    "which is slower. The result is the same.", step=step)


def _lower(training: Training, precision: BasePrecision, step: int) -> Sentence:
    lower_precision(training, precision)
    return Sentence("Out of memory in step {step}: from here on the model is held in {precision}, as allow_fewer_bits "
                    "permits. This changes the result slightly.", step=step, precision=precision)


def _fewer_bits(training: Training) -> BasePrecision | None:
    """Next smaller precision: eight bits, then four where their package is installed."""
    precision, file = _holding(training).precision, training.weights
    eight = precision in QUANTISERS or (precision == "as_file" and file.is_quantised(_PROJECTION))
    if not eight:
        return "int8"
    return "nf4" if precision != "nf4" and optional.is_installed("bitsandbytes") else None
