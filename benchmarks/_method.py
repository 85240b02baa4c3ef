"""Parts of the method benchmark that need no whole training: times, batches, and guards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.model import flow_matching
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.training import batches
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.loss import Objective
from sidestep_core.training.resolve import resolve
from sidestep_core.training.setup import prepare
from sidestep_core.training.step import Training, optimizer_step
from tests.distilled import GUIDANCE, Music, guidance_of
from tests.tiny import write_dataset

LORA = LoraConfig(rank=8, alpha=8.0, dropout=0.0, target_mlp=True)
CONFIG = TrainConfig(max_steps=60, learning_rate=3e-3, batch_size=8, gradient_accumulation=1, warmup_steps=0,
                     heldout_songs=0, device="cpu", gradient_checkpointing="off")
HIGH = 0.75
"""Time at and above which turbo takes five of its eight steps."""
DRAWS, STEPS = 20_000, 200


def training(checkpoint: Checkpoint, dataset: Dataset, **settings: Any) -> Training:
    """Prepare a training."""
    config = replace(CONFIG, **settings)
    return prepare(checkpoint, dataset, LORA, resolve(config, checkpoint, dataset))


def turbo_draws(checkpoint: Checkpoint, dataset: Dataset) -> dict[str, float]:
    """Share of times at HIGH and above on turbo, of automatic ones and of the model's own distribution."""
    turbo = replace(checkpoint, variant="turbo")
    found = {}
    for mode in ("auto", "continuous"):
        objective: Objective = training(turbo, dataset, timestep_mode=mode).objective
        times = flow_matching.times_at(objective.timesteps, (torch.arange(DRAWS) + 0.5) / DRAWS)
        found[mode] = round(float((times >= HIGH).float().mean()), 3)
    return found


def time_variance(checkpoint: Checkpoint, dataset: Dataset) -> dict[str, float]:
    """Variance of a step's loss and of its gradient at four draws, stratified over independent, on music whose loss
    depends on the time, as that of all music does."""
    found: dict[str, list[float]] = {}
    for sampling in ("stratified", "independent"):
        made = training(checkpoint, dataset, timestep_mode="continuous", timestep_sampling=sampling, batch_size=4,
                        learning_rate=1e-30, max_grad_norm=1e9)
        gradients: list[torch.Tensor] = []
        made.optimizer.register_step_pre_hook(lambda *_, made=made, gradients=gradients: gradients.append(torch.cat(
            [parameter.grad.flatten() for parameter in made.adapter.parameters if parameter.grad is not None])))
        losses = [optimizer_step(made, step).numbers["loss"] for step in range(STEPS)]
        spread = torch.stack(gradients)
        found.setdefault("loss", []).append(float(torch.tensor(losses).var()))
        found.setdefault("gradient", []).append(float((spread - spread.mean(0)).square().sum()))
    return {name: round(stratified / independent, 3) for name, (stratified, independent) in found.items()}


def passes(checkpoint: Checkpoint, folder: Path) -> float:
    """Forward passes per accumulation at batch size 4, of songs of different lengths and words in crops."""
    songs = write_dataset(folder, checkpoint, tuple(range(60, 84)), tokens=tuple(range(5, 29)), windows=(25,))
    made = training(checkpoint, songs, batch_size=4, chunk_duration=1.0)
    taken = [sum(1 for _ in batches.batches(made.trained_on, made.objective.silence_TC, made.config, step))
             for step in range(STEPS)]
    return sum(taken) / STEPS


def guard_gaps(checkpoint: Checkpoint, songs: Dataset, music: Music) -> Iterator[tuple[str, float]]:
    """Yield for each guard the guidance that is left of what was distilled, in percent: what a caption changes."""
    guards = {"without": {}, "preserve": {"preserve": 0.5}, "guidance": {"guidance": GUIDANCE},
              "with": {"preserve": 0.5, "guidance": GUIDANCE}}
    for name, settings in guards.items():
        made = training(checkpoint, songs, **settings)
        before = guidance_of(made.objective, music)
        for step in range(made.total_steps):
            optimizer_step(made, step)
        yield name, round(100 * guidance_of(made.objective, music) / before, 1)
