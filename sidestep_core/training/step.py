"""One training step.

A step is a pure function of the seed and its number: its songs, crops, noise, times and dropped conditions.  So a
resumed run equals an uninterrupted one, and the batch size changes only the speed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import compress

import torch

from .. import rng
from ..adapters.algorithm import LiveAdapter
from ..device import is_out_of_memory, receive
from ..errors import HalfStep, TrainingDiverged
from ..model.weights import Weights
from ..progress import Progress, Report, ignore
from . import batches, memory
from .config import ResolvedConfig
from .data import Sample
from .heldout.passes import Pass
from .heldout.watch import Watch
from .loss import BatchLoss, Objective, training_loss
from .metrics import MeasuredOn
from .optim import optimizers
from .optim.ema import Averaging
from .optim.first_update import Start
from .optim.lr_schedules import learning_rate
from .parallel.gradients import share_passes
from .parallel.ranks import ALONE, Ranks

log = logging.getLogger(__name__)

PREFETCHES_ON = ("cuda",)
"""Devices to which the batches of the next step are copied during a step."""
LARGE_WEIGHT = 10.0
"""Weights of adapters stay far below 1; beyond this the steps were too large."""
SCALE_DOUBLES_EVERY = 2000
"""Steps in fp16 after which the loss scale doubles, so that it recovers from an overflow."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything a step needs."""

    config: ResolvedConfig
    objective: Objective
    adapter: LiveAdapter
    optimizer: torch.optim.Optimizer
    average: Averaging | None
    """Average of the adapter's weights, measured and published instead of them; None if there is none."""
    trained_on: tuple[Sample, ...]
    heldout: tuple[Sample, ...]
    passes: tuple[Pass, ...]
    """Passes of the held-out loss, or over trained samples if none are held out."""
    watch: Watch | None
    """Passes that find songs which are learned by heart; None if nothing is watched."""
    need: memory.Need
    """Estimated device memory, for messages."""
    weights: Weights
    """File of the decoder, from which its frozen weights can be read again."""
    ranks: Ranks = ALONE
    prefetched: batches.Prefetched = field(default_factory=batches.Prefetched)
    updating: threading.Event = field(default_factory=threading.Event)
    """Set while the weights change: until cleared they belong to no step."""

    @property
    def measured_name(self) -> MeasuredOn:
        """Name of the measured samples in metrics and messages."""
        return "held_out" if self.heldout else "trained"

    @cached_property
    def ends(self) -> list[int]:
        """End of each sample's positions in an unshuffled epoch."""
        return batches.ends_of(self.trained_on)

    @property
    def epoch(self) -> int:
        """Number of draws per epoch."""
        return self.ends[-1]

    @property
    def total_steps(self) -> int:
        return self.config.total_steps(self.epoch)

    def batch(self, group: Sequence[batches.Draw]) -> batches.Batch:
        """Read the batch of a group of draws, and start to copy it to the device."""
        batch = batches.read(group, self.objective.silence_TC, self.config)
        return batch.to(self.objective.device, self.objective.dtype)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Replace the adapter by its average inside the block, if there is one."""
        with contextlib.nullcontext() if self.average is None else self.average.applied():
            yield


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Numbers of one step."""

    numbers: Mapping[str, float]
    """loss, gradient, lr, epoch; also weighted (loss) and scale (in fp16) if used."""
    samples: tuple[tuple[float, float], ...]
    """(time, unweighted loss) of every sample."""
    layer_gradients: Mapping[str, float]
    """Gradient norm per layer before clipping; empty unless requested."""
    scale: float
    """Loss scale in the end, with which the next step begins."""


InMemory = Callable[[Callable[[], BatchLoss]], BatchLoss]
"""Does the work of a pass, again in less memory if that runs out."""


def optimizer_step(training: Training, step: int, report: Report = ignore, *, scale: float = 1.0,
                   by_layer: bool = False, in_memory: InMemory = lambda work: work()) -> StepResult:
    """Take one optimizer step (0-based) on its draws.

    The gradient is that of the mean loss per sample.  TrainingDiverged, before anything is changed, if the loss or the
    gradient is not finite or no gradient arrives.  In fp16 the loss is multiplied by `scale`, and a step whose
    gradients overflow is repeated with half of it; that changes nothing but the rounding.  `in_memory` does each pass
    that is shared with other ranks: they wait for this one, so it repeats a pass and never the step.
    """
    config = training.config
    fp16 = training.objective.dtype == torch.float16
    if fp16 and step and step % SCALE_DOUBLES_EVERY == 0:
        scale *= 2
    found = _backward(training, step, scale if fp16 else 1.0, report, in_memory, by_layer=by_layer)
    while fp16 and scale > 1 and not math.isfinite(found.gradient):
        scale /= 2
        log.info("The gradients of step %d overflowed fp16; again at scale %g.", step + 1, scale)
        training.optimizer.zero_grad(set_to_none=True)
        found = _backward(training, step, scale, report, in_memory, by_layer=by_layer)
    loss = [value for _, value in found.samples]
    draws = batches.draws_of_step(config, training.epoch, step)
    numbers = {"loss": sum(loss) / len(loss), "gradient": found.gradient,
               "lr": learning_rate(config, training.total_steps, step),
               "epoch": draws.stop / training.epoch}
    if config.loss_weighting != "none":
        numbers["weighted"] = found.weighted
    if fp16:
        numbers["scale"] = scale
    _check_healthy(training, numbers, step)
    torch.nn.utils.clip_grads_with_norm_(training.adapter.parameters, config.max_grad_norm, found.norm)
    optimizers.set_rate(training.optimizer, numbers["lr"])
    _update(training, step)
    return StepResult(numbers=numbers, samples=found.samples, layer_gradients=found.layer_gradients, scale=scale)


def _update(training: Training, step: int) -> None:
    """Update the weights by their gradients.  HalfStep if that fails: some may have changed and some not; but out of
    memory in the first update, everything is as before it.
    """
    start = Start.of(training.optimizer)
    training.updating.set()
    updated = False
    try:
        training.optimizer.step()
        updated = True
        training.optimizer.zero_grad(set_to_none=True)
        if training.average is not None:
            training.average.update(step)
    except Exception as error:  # noqa: BLE001 (whatever it is, these weights are no step's)
        if updated or start is None or not is_out_of_memory(error):
            raise HalfStep(f"The optimizer failed in step {step + 1}: {error}") from error
        start.restore()
        training.updating.clear()
        raise
    training.updating.clear()


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Numbers of a step's gradients and losses."""

    norm: torch.Tensor
    """Norm of the gradients, on the device."""
    gradient: float
    """The same norm."""
    weighted: float
    samples: tuple[tuple[float, float], ...]
    layer_gradients: Mapping[str, float]


def _backward(training: Training, step: int, scale: float, report: Report, in_memory: InMemory, *,
              by_layer: bool) -> _Found:
    """Compute gradients of the step's mean loss, with `scale` against underflow; fetch the next step's batches."""
    losses = _passes(training, step, scale, report, in_memory)
    _fetch(training, step + 1)
    if scale != 1:
        # What has overflowed stays infinite, so the norm tells.
        for gradient in _gradients(training):
            gradient.mul_(1 / scale)
    return _read(training, losses, by_layer=by_layer)


def _fetch(training: Training, step: int) -> None:
    """Read this rank's batches of a step, and start to copy them to a card, while it computes the step before.

    Elsewhere host and device are one, and nothing would be gained.
    """
    if training.objective.device.type in PREFETCHES_ON and step < training.total_steps:
        groups = enumerate(batches.groups(training.trained_on, training.config, step, training.ends))
        training.prefetched.fetch((group for number, group in groups if training.ranks.takes(number)), training.batch)


def _read(training: Training, losses: Sequence[BatchLoss], *, by_layer: bool) -> _Found:
    """Read all numbers in one transfer: it is the only time in a step that the host waits for the device."""
    norm = torch.nn.utils.get_total_norm(_gradients(training)).to(training.objective.device)
    layers = _layer_norms(training) if by_layer else {}
    weighted, times, each = (torch.cat(parts) for parts in zip(*(
        (batch.weighted_B, batch.t_B, batch.loss_B) for batch in losses), strict=True))
    single = [norm, weighted.mean(), *layers.values()]
    numbers = receive(torch.cat([torch.stack(single), times, each]))
    gradient, mean, *of_layers = numbers[:len(single)]
    rest = numbers[len(single):]
    every = tuple(zip(rest[:len(times)], rest[len(times):], strict=True))
    # The loss of preserved samples is another: it is shown only if there is nothing else.
    shown = [not preserved for batch in losses for preserved in batch.preserved]
    return _Found(norm=norm, gradient=gradient, weighted=mean, samples=tuple(compress(every, shown)) or every,
                  layer_gradients=dict(zip(layers, of_layers, strict=True)))


def _passes(training: Training, step: int, scale: float, report: Report, in_memory: InMemory) -> list[BatchLoss]:
    """Compute gradients of the step's mean loss times `scale`; return the losses of its batches without graphs."""
    ranks = training.ranks
    groups = batches.groups(training.trained_on, training.config, step, training.ends)
    training.objective.decoder.train()
    one_pass = partial(_pass, training, step, sum(map(len, groups)), scale, report)
    if ranks.count == 1:
        return [one_pass(group) for group in groups]
    return share_passes(ranks, training.adapter.parameters, groups,
                        lambda group: in_memory(partial(one_pass, group)), BatchLoss.zeros)


def _pass(training: Training, step: int, count: int, scale: float, report: Report,
          group: Sequence[batches.Draw]) -> BatchLoss:
    """Add the gradients of one of the step's batches to the parameters; return its losses.  `count` is the number of
    the step's samples."""
    batch = training.prefetched.take(group, training.batch)
    training.adapter.switch.start([rng.seed(training.config.seed, "dropout", draw) for draw in batch.draws],
                                  batch.tokens)
    loss = training_loss(training.objective, batch)
    (loss.weighted_B.sum() / count * scale).backward()
    report(Progress(stage="train", step=step, total=training.total_steps))
    return replace(loss, weighted_B=loss.weighted_B.detach())


def _gradients(training: Training) -> list[torch.Tensor]:
    return [parameter.grad for parameter in training.adapter.parameters if parameter.grad is not None]


def _layer_norms(training: Training) -> dict[str, torch.Tensor]:
    """Gradient norm of the adapter in each decoder layer, by `layer_N`."""
    layers: dict[str, list[torch.Tensor]] = {}
    for name, parameter in training.objective.decoder.named_parameters():
        if parameter.grad is not None and (match := re.match(r"layers\.(\d+)\.", name)):
            layers.setdefault(f"layer_{match[1]}", []).append(parameter.grad)
    return {layer: torch.nn.utils.get_total_norm(gradients) for layer, gradients in layers.items()}


def _check_healthy(training: Training, numbers: Mapping[str, float], step: int) -> None:
    """Raise TrainingDiverged, with the likely cause, if the step cannot be taken."""
    for name in ("loss", "gradient"):
        if not math.isfinite(numbers[name]):
            raise TrainingDiverged(f"The {name} became {numbers[name]} in step {step + 1}. "
                                   + (_too_fast(training.config) if step else _before_learning(training)))
    # min_snr_flow weighs pure noise with exactly zero, and a step may have nothing else.
    if numbers["gradient"] == 0 and numbers.get("weighted") != 0:
        largest = max(float(parameter.detach().abs().max()) for parameter in training.adapter.parameters)
        if largest > LARGE_WEIGHT:
            raise TrainingDiverged(f"The adapter stopped learning in step {step + 1}: its weights have grown to "
                                   f"{largest:.3g}. {_too_fast(training.config)}")
        raise TrainingDiverged(f"No gradient reached the adapter in step {step + 1}; training would change nothing. "
                               "Adapt more target_modules, lower cfg_ratio, or use precision fp32. An adapter in "
                               "start_from may hold nothing but zeros: leave it out.")


def _too_fast(config: ResolvedConfig) -> str:
    advice = ("Choose optimizer adamw" if config.optimizer == "prodigy" else
              f"Lower the learning rate, which is {config.learning_rate:g} (0.0001 is usual)")
    return (f"{advice}, or use precision fp32 where that is low already. The last checkpoint of the run is untouched.")


def _before_learning(training: Training) -> str:
    """Advice for a loss that is not finite before anything was learned, which no learning rate explains."""
    return (f"Nothing was learned yet, so it is the precision ({str(training.objective.dtype).removeprefix('torch.')}) "
            "or a damaged file. Use precision fp32. If that does not help, get the model again, and leave out "
            "start_from. Preprocess the songs again if the dataset may be damaged.")
