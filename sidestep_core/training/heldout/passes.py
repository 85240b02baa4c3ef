"""Forward passes of the held-out loss, within a budget of the training's time.

Every pass has a crop, a time and noise of its own, equal at each measurement, so that two measurements are compared
pass by pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ... import rng
from ...model import flow_matching
from ...model.flow_matching import FRAMES_PER_SECOND, TimestepDistribution
from .. import batches
from ..config import ResolvedConfig
from ..data import Sample, crop_frames, grid

BUDGET = 0.05
"""Largest share of a training's time that measuring may take."""
PASS_COST = 0.5
"""Upper bound of the time of a pass without gradients, as a share of the time of a draw with them."""
MOST_PASSES = 40
"""More would delay the first step, and tell little more."""
_GOLDEN = 0.6180339887498949
"""Inverse of the golden ratio, whose multiples modulo 1 spread evenly however many there are."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Forward pass of a measurement."""

    sample: Sample
    start: int
    """First frame of the crop."""
    time: float
    noise: str
    """Name of the pass's noise among those of its sample."""


def choose(measured: Sequence[Sample], trained: Sequence[Sample], config: ResolvedConfig,
           distribution: TimestepDistribution) -> tuple[Pass, ...]:
    """Choose the passes of each measurement: as many as fit into the budget, at least one.

    Samples take turns; crops spread over each of them, and times over the distribution that is trained.  More passes
    begin with the same ones.
    """
    ranked = sorted(measured, key=lambda sample: rng.seed(config.seed, "measured", sample.name))
    left, found = frames_per_measurement(trained, config), list[Pass]()
    for number in range(MOST_PASSES):
        sample = ranked[number % len(ranked)]
        frames = len(sample.latents_TC)
        crop = crop_frames(frames, config)
        left -= crop
        if found and left < 0:
            break
        start = flow_matching.crop_start(frames, crop, number // len(ranked),
                                         rng.seed(config.seed, "measured crop", sample.name), grid(config))
        share = torch.tensor([(number + 0.5) * _GOLDEN % 1])
        found.append(Pass(sample=sample, start=start, noise=f"pass {number}",
                          time=float(flow_matching.times_at(distribution, share))))
    return tuple(found)


def frames_per_measurement(trained: Sequence[Sample], config: ResolvedConfig) -> float:
    """Frames that one measurement may pass through the decoder, that before the first step included."""
    return frames_within(BUDGET, trained, config) / (1 + measurements(trained, config))


def frames_within(budget: float, trained: Sequence[Sample], config: ResolvedConfig) -> float:
    """Frames that may pass through the decoder without gradients in this share of the training's time."""
    epoch = batches.draws_per_epoch(trained)
    shown = sum(sample.repeats * crop_frames(len(sample.latents_TC), config) for sample in trained) / epoch
    return budget / PASS_COST * shown * config.total_steps(epoch) * config.samples_per_step


def measurements(trained: Sequence[Sample], config: ResolvedConfig) -> int:
    """Number of measurements after the first step."""
    return -(-config.total_steps(batches.draws_per_epoch(trained)) // config.heldout_every)


def described(found: Iterable[Pass], config: ResolvedConfig) -> Iterator[Mapping[str, str | float]]:
    """Describe the passes for people."""
    for one in found:
        seconds = crop_frames(len(one.sample.latents_TC), config) / FRAMES_PER_SECOND
        yield {"song": one.sample.name, "start": one.start / FRAMES_PER_SECOND, "seconds": seconds, "time": one.time}
