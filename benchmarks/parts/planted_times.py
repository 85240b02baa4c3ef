"""Part of the method benchmark: stratified and independent times on planted data.

A teacher differs from the model in a few modules.  After half of what it takes to learn that, the variance of a step
due to its draws is measured; and for each seed, the steps until the planted change is recovered.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks._method import STILL, variances
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.model import flow_matching
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Progress
from sidestep_core.training.config import TimestepSampling, TrainConfig
from sidestep_core.training.heldout.passes import Pass
from sidestep_core.training.loss import heldout_loss
from sidestep_core.training.resolve import resolve
from sidestep_core.training.setup import prepare
from sidestep_core.training.step import Training, optimizer_step
from tests.planting import PAIRS, planted, taught_by
from tests.tiny import tiny_checkpoint, write_dataset

SAMPLINGS: tuple[TimestepSampling, ...] = ("stratified", "independent")
SONGS, HELD_OUT, FRAMES = 16, 4, 40
LOUD = 0.1
"""Relative change of the prediction by each planted change."""
ADAPTER = LoraConfig(rank=8, alpha=8.0, dropout=0.0, target_mlp=True)
CONFIG = TrainConfig(max_steps=400, batch_size=4, gradient_accumulation=1, learning_rate=5e-3, warmup_steps=0,
                     schedule="constant", timestep_mode="continuous", cfg_ratio=0.0, heldout_songs=HELD_OUT,
                     weight_decay=0.0, device="cpu", gradient_checkpointing="off")
SEEDS, VARIANCE_SEEDS = 12, 6
GROUPS = 20
"""Groups of neighbouring times."""
EVERY = 5
"""Steps between two measurements of what is left to learn."""
RECOVERED, HALF_WAY = 0.25, 0.5
"""Share of the held-out loss before training that is left where the change counts as recovered, and halfway."""
SHARES = (0.17, 0.5, 0.83)
"""Places of the measured times in their distribution."""


@dataclass(frozen=True)
class Variance:
    """Variance of a step due to its draws, stratified times over independent, mean of the seeds."""

    loss: float
    error: float
    """Standard error of the loss's."""
    gradient: float
    explained: float
    """Share of the variance of single losses that their times explain: the most that spreading times can remove."""


@dataclass(frozen=True)
class Recovery:
    """Steps until the planted change was recovered, of each seed."""

    stratified: list[float]
    independent: list[float]

    @property
    def saved(self) -> tuple[float, float]:
        """Mean number of steps that stratified times save, and its standard error."""
        saved = [free - even for even, free in zip(self.stratified, self.independent, strict=True)]
        return statistics.fmean(saved), statistics.stdev(saved) / math.sqrt(len(saved))


def materials(folder: Path) -> tuple[Checkpoint, Dataset]:
    """Write the model and the songs."""
    checkpoint = tiny_checkpoint(folder / "model")
    return checkpoint, write_dataset(folder / "songs", checkpoint, (FRAMES,) * SONGS)


@contextmanager
def _taught(checkpoint: Checkpoint, dataset: Dataset, seed: int, **settings: Any) -> Iterator[Training]:
    """Prepare a training whose targets are the teacher's."""
    config = replace(CONFIG, seed=seed, **settings)
    with taught_by(planted(checkpoint, [module for pair in PAIRS for module in pair], seed, LOUD), seed):
        yield prepare(checkpoint, dataset, ADAPTER, resolve(config, checkpoint, dataset))


def _recover(training: Training, share: float) -> float:
    """Train until this share of the held-out loss is left; return the steps, interpolated between measurements."""
    law = flow_matching.times_at(training.objective.timesteps, torch.tensor(SHARES)).tolist()
    passes = [Pass(sample=sample, start=0, time=time, noise=f"{time}") for sample in training.heldout for time in law]
    first = before = 0.0
    for step in range(0, training.total_steps + 1, EVERY):
        at = Progress(stage="train", step=step, total=training.total_steps)
        left = heldout_loss(training.objective, passes, at).mean
        first = first or left
        if left <= share * first:
            return step - EVERY * (share * first - left) / (before - left)
        before = left
        for number in range(step, step + EVERY):
            optimizer_step(training, number)
    raise AssertionError(f"{before / first:.2f} of the loss is left after {training.total_steps} steps")


def variance(checkpoint: Checkpoint, dataset: Dataset) -> Variance:
    """Measure the variance of a step of four draws, of models that have learned half of what is planted."""
    losses, gradients, explained = [], [], []
    for seed in range(VARIANCE_SEEDS):
        with _taught(checkpoint, dataset, seed) as training:
            _recover(training, HALF_WAY)
            state = {name: tensor.clone() for name, tensor in training.adapter.state_dict().items()}
        found = []
        for sampling in SAMPLINGS:
            with _taught(checkpoint, dataset, seed, timestep_sampling=sampling, **STILL) as training:
                training.adapter.load_state_dict(state)
                found.append(variances(training))
        even, free = found
        losses.append(even.loss / free.loss)
        gradients.append(even.gradient / free.gradient)
        explained.append(_explained(free.samples))
    return Variance(loss=statistics.fmean(losses), error=statistics.stdev(losses) / math.sqrt(VARIANCE_SEEDS),
                    gradient=statistics.fmean(gradients), explained=statistics.fmean(explained))


def _explained(samples: Sequence[tuple[float, float]]) -> float:
    """Share of the variance of losses that their times explain: between groups of neighbouring times, less what chance
    puts there."""
    losses = torch.tensor([loss for _, loss in sorted(samples)], dtype=torch.float64)
    within = sum(float((group - group.mean()).square().sum()) for group in losses.chunk(GROUPS))
    return 1 - within / (len(losses) - GROUPS) / float(losses.var())


def recovery(checkpoint: Checkpoint, dataset: Dataset) -> Recovery:
    """Measure the steps to recover what is planted, of each seed with each way to draw times."""
    found: dict[TimestepSampling, list[float]] = {sampling: [] for sampling in SAMPLINGS}
    for seed in range(SEEDS):
        for sampling in SAMPLINGS:
            with _taught(checkpoint, dataset, seed, timestep_sampling=sampling) as training:
                found[sampling].append(_recover(training, RECOVERED))
        print(f"seed {seed}: " + ", ".join(f"{sampling} {steps[-1]:.1f}" for sampling, steps in found.items()),
              flush=True)
    return Recovery(**found)
