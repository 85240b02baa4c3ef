"""Choice of the best checkpoint by held-out losses, on planted data that is overfitted, against many other songs.

The regret of a choice is how much higher the loss of the chosen checkpoint is over songs that no judge has seen than
that of the best one, in percent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch
from torch import Tensor

from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.model import flow_matching
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.flow_matching import HELDOUT_TIMES
from sidestep_core.progress import Progress
from sidestep_core.training import data
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.data import Sample
from sidestep_core.training.heldout.passes import Pass
from sidestep_core.training.loss import heldout_loss
from sidestep_core.training.resolve import resolve
from sidestep_core.training.run_checkpoint import RunState
from sidestep_core.training.setup import prepare
from sidestep_core.training.step import optimizer_step
from tests.planting import PAIRS, planted, taught_by
from tests.tiny import tiny_checkpoint, write_dataset

SONGS, FRAMES, CROP = 20, 200, 25
"""Two of the songs are held out."""
OTHERS = 8
"""Songs that judge the choices."""
SEEDS = 2
NOISE = 1.0
"""Size of each song's own part of the target, which can only be learned by heart, relative to the prediction."""
ADAPTER = LoraConfig(rank=16, alpha=32.0, dropout=0.0)
CONFIG = TrainConfig(max_steps=250, gradient_accumulation=4, heldout_every=25, learning_rate=2e-3, warmup_steps=10,
                     chunk_duration=CROP / 25, publish="best", cfg_ratio=0.0, device="cpu",
                     gradient_checkpointing="off", schedule="constant")


@contextmanager
def own_parts() -> Iterator[None]:
    """Add a part to the target of a training that is each song's own, in every frame another."""
    taught = flow_matching.velocity

    def velocity(x0_BTC: Tensor, noise_BTC: Tensor) -> Tensor:
        target_BTC = taught(x0_BTC, noise_BTC)
        if not torch.is_grad_enabled():
            return target_BTC
        # Nothing noisy shows it: it can only be remembered.
        own_BTC = math.sqrt(2) * torch.sin(1000 * x0_BTC)
        return target_BTC + NOISE * target_BTC.square().mean().sqrt() * own_BTC

    with mock.patch.object(flow_matching, "velocity", velocity):
        yield


@dataclass(frozen=True)
class Judged:
    """Losses of one checkpoint: by the passes of the training, by five times of each held-out song, as before there
    was an error, and by many songs."""

    step: int
    passes: tuple[float, ...]
    lowest: float
    truth: float


def _passes(samples: Sequence[Sample], times: Sequence[float]) -> list[Pass]:
    return [Pass(sample=sample, start=(FRAMES - CROP) // 2, time=time, noise=f"{time}")
            for sample in samples for time in times]


def course(checkpoint: Checkpoint, dataset: Dataset, seed: int) -> list[Judged]:
    """Train on the first songs, and judge every measured checkpoint."""
    mine = replace(dataset, samples=dataset.samples[:SONGS])
    settings = resolve(replace(CONFIG, seed=seed), checkpoint, mine)
    training = prepare(checkpoint, mine, ADAPTER, settings)
    others = data.open_samples(dataset, dataset.samples[SONGS:], settings.config)
    shares = torch.tensor([0.17, 0.5, 0.83])
    law = flow_matching.times_at(training.objective.timesteps, shares).tolist()
    found = []
    for step in range(settings.total_steps + 1):
        if step % CONFIG.heldout_every == 0:
            at = Progress(stage="train", step=step, total=settings.total_steps)
            losses = [heldout_loss(training.objective, passes, at) for passes in (
                training.passes, _passes(training.heldout, HELDOUT_TIMES), _passes(others, law))]
            found.append(Judged(step, losses[0].losses, losses[1].mean, losses[2].mean))
        if step < settings.total_steps:
            optimizer_step(training, step)
    return found


def chosen(judged: Sequence[Judged]) -> tuple[int, int]:
    """Steps chosen with error bars, and as the lowest loss at five times."""
    state = RunState()
    for one in judged:
        state = replace(state, step=one.step).with_heldout(sum(one.passes) / len(one.passes), one.passes)
    return state.best_step, min(judged[1:], key=lambda one: one.lowest).step


def best_regret() -> tuple[float, float]:
    """Mean regret in percent of the choice with error bars, and of the lowest loss at five times."""
    regrets = []
    with TemporaryDirectory() as folder:
        checkpoint = tiny_checkpoint(Path(folder))
        dataset = write_dataset(Path(folder) / "dataset", checkpoint, (FRAMES,) * (SONGS + OTHERS), windows=(CROP,))
        for seed in range(SEEDS):
            with taught_by(planted(checkpoint, [module for pair in PAIRS for module in pair], seed, 0.2), seed, 0.0), \
                    own_parts():
                judged = course(checkpoint, dataset, seed)
            truth = {one.step: one.truth for one in judged[1:]}
            regrets.append([100 * (truth[step] / min(truth.values()) - 1) for step in chosen(judged)])
    with_error, without = (sum(column) / len(column) for column in zip(*regrets, strict=True))
    return with_error, without

