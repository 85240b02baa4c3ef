"""Choice of the best checkpoint by held-out losses, on planted data that is overfitted, against many other songs.

The regret of a choice is how much higher the loss of the chosen checkpoint is over songs that no judge has seen than
that of the best one, in percent.  The rule in use takes the lowest mean of the passes of a measurement; the one before
took a measurement that was lower than the best by more than the standard error of their difference; the first one the
lowest mean at five times of each held-out song.  Each training goes on until it overfits.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
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

SONGS, FRAMES, CROP = 8, 30, 25
"""Few and short songs, which are soon overfitted; two of them are held out."""
OTHERS = 8
"""Songs that judge the choices."""
SEEDS = 12
NOISE = 2.0
"""Size of each song's own part of the target, which can only be learned by heart, relative to the prediction."""
ADAPTER = LoraConfig(rank=16, alpha=16.0, dropout=0.0, target_mlp=True)
OVERFITTED = 1.05
"""Loss over the other songs, as a multiple of the lowest one, at which a training has overfitted and ends."""
LOWEST, SURE, FIVE_TIMES = "lowest mean", "with standard error", "five times"
CONFIG = TrainConfig(max_steps=1000, batch_size=4, gradient_accumulation=1, heldout_every=25, heldout_songs=2,
                     learning_rate=1e-3, warmup_steps=10, chunk_duration=CROP / 25, publish="best", cfg_ratio=0.0,
                     device="cpu", gradient_checkpointing="off", schedule="constant")


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
    """Losses of one checkpoint: by the passes of the training, by five times of each held-out song, and by many
    songs."""

    step: int
    passes: tuple[float, ...]
    five_times: float
    truth: float


@dataclass(frozen=True)
class Regret:
    """Mean regret in percent, and its standard error over the seeds."""

    mean: float
    error: float

    @classmethod
    def mean_of(cls, values: Sequence[float]) -> Regret:
        """Mean of the seeds' values."""
        return cls(statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values)))


@dataclass(frozen=True)
class Regrets:
    """Regrets in percent of each seed, by rule."""

    by_rule: dict[str, list[float]]

    @property
    def seeds(self) -> int:
        return len(self.by_rule[LOWEST])

    def of(self, rule: str) -> Regret:
        """Mean of a rule's regrets."""
        return Regret.mean_of(self.by_rule[rule])

    def less(self, rule: str, than: str) -> Regret:
        """Mean of what a rule regrets less than another one."""
        pairs = zip(self.by_rule[rule], self.by_rule[than], strict=True)
        return Regret.mean_of([there - here for here, there in pairs])


def _passes(samples: Sequence[Sample], times: Sequence[float]) -> list[Pass]:
    return [Pass(sample=sample, start=(FRAMES - CROP) // 2, time=time, noise=f"{time}")
            for sample in samples for time in times]


def course(checkpoint: Checkpoint, dataset: Dataset, seed: int) -> list[Judged]:
    """Train on the first songs until they are overfitted, and judge every measured checkpoint."""
    mine = replace(dataset, samples=dataset.samples[:SONGS])
    settings = resolve(replace(CONFIG, seed=seed), checkpoint, mine)
    training = prepare(checkpoint, mine, ADAPTER, settings)
    others = data.open_samples(dataset, dataset.samples[SONGS:], settings.config)
    shares = torch.tensor([0.17, 0.5, 0.83])
    law = flow_matching.times_at(training.objective.timesteps, shares).tolist()
    judges = training.passes, _passes(training.heldout, HELDOUT_TIMES), _passes(others, law)
    found: list[Judged] = []
    for step in range(settings.total_steps + 1):
        if step % CONFIG.heldout_every == 0:
            at = Progress(stage="train", step=step, total=settings.total_steps)
            own, five, many = (heldout_loss(training.objective, passes, at) for passes in judges)
            found.append(Judged(step, own.losses, five.mean, many.mean))
            if many.mean > OVERFITTED * min(one.truth for one in found):
                return found
        optimizer_step(training, step)
    raise AssertionError(f"seed {seed} has not overfitted after {settings.total_steps} steps")


def chosen(judged: Sequence[Judged]) -> dict[str, int]:
    """Step that each rule chooses."""
    state = RunState()
    for one in judged:
        state = replace(state, step=one.step).with_heldout(statistics.fmean(one.passes), one.passes)
    return {LOWEST: state.best_step, SURE: state.reference_step,
            FIVE_TIMES: min(judged[1:], key=lambda one: one.five_times).step}


def best_regret(folder: Path) -> Regrets:
    """Measure the regret of each rule, seed after seed."""
    regrets: dict[str, list[float]] = {LOWEST: [], SURE: [], FIVE_TIMES: []}
    checkpoint = tiny_checkpoint(folder / "model")
    dataset = write_dataset(folder / "songs", checkpoint, (FRAMES,) * (SONGS + OTHERS), windows=(CROP,))
    for seed in range(SEEDS):
        with taught_by(planted(checkpoint, [module for pair in PAIRS for module in pair], seed, 0.2), seed, 0.0), \
                own_parts():
            judged = course(checkpoint, dataset, seed)
        truth = {one.step: one.truth for one in judged[1:]}
        best = min(truth, key=lambda step: truth[step])
        steps = chosen(judged)
        for rule, step in steps.items():
            regrets[rule].append(100 * (truth[step] / truth[best] - 1))
        print(f"seed {seed}: best {best} of {judged[-1].step}; "
              + ", ".join(f"{rule} {step} {regrets[rule][-1]:.2f} %" for rule, step in steps.items()), flush=True)
    return Regrets(regrets)
