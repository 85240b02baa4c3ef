"""Trainings in which one song helps the held-out one and another harms it: a duplicate, and one that teaches the
opposite.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.dataset.sample_info import SampleInfo
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.runs.influence import SongInfluence
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.heldout import material
from sidestep_core.training.resolve import resolve
from sidestep_core.training.setup import prepare
from sidestep_core.training.step import Training, optimizer_step
from tests.planting import PAIRS, planted, taught_by

STRENGTH = 0.2
"""Change of the prediction by each planted module."""
DUPLICATE = "duplicate.wav"
LORA = LoraConfig(rank=8, alpha=8.0, dropout=0.0, target_mlp=True)
CONFIG = TrainConfig(max_steps=60, batch_size=4, gradient_accumulation=1, heldout_songs=1, learning_rate=2e-3,
                     warmup_steps=0, schedule="constant", timestep_mode="continuous", cfg_ratio=0.0, device="cpu",
                     gradient_checkpointing="off")


@dataclass(frozen=True, kw_only=True)
class Poisoned:
    """Finished training, with the names of its duplicate and of its poisoned song."""

    training: Training
    duplicate: str
    poisoned: str

    def hit(self, songs: Sequence[SongInfluence]) -> bool:
        """Return True if the duplicate is the most helpful song, and the poisoned one the only worst and harmful."""
        return (songs[0].song, songs[-1].song) == (self.duplicate, self.poisoned) and songs[-1].score < 0


def with_duplicate(dataset: Dataset, config: TrainConfig, checkpoint: Checkpoint) -> tuple[Dataset, str]:
    """Add a copy of the song that will be held out; return also the name of the trained one of the two."""
    heldout = _heldout(dataset, config, checkpoint)
    found = replace(dataset, samples=(*dataset.samples, replace(heldout, name=DUPLICATE)))
    now = _heldout(found, config, checkpoint)
    return found, heldout.name if now.name == DUPLICATE else DUPLICATE


def _heldout(dataset: Dataset, config: TrainConfig, checkpoint: Checkpoint) -> SampleInfo:
    _, (heldout,) = material.split(dataset.samples, resolve(config, checkpoint, dataset).config)
    return heldout


@contextlib.contextmanager
def trained_with(checkpoint: Checkpoint, dataset: Dataset, seed: int, config: TrainConfig = CONFIG, *,
                 poison: bool = True) -> Iterator[Poisoned]:
    """Train on songs with a duplicate and a poisoned one; inside the block their teachers still teach.

    Without `poison` no song teaches the opposite.
    """
    config = replace(config, seed=seed)
    songs, duplicate = with_duplicate(dataset, config, checkpoint)
    training = prepare(checkpoint, songs, LORA, resolve(config, checkpoint, songs))
    bad = next(sample for sample in training.trained_on if sample.name != duplicate)
    teacher = planted(checkpoint, [*chain(*PAIRS)], seed, STRENGTH)
    base = planted(checkpoint, (), seed)
    with taught_by(teacher, seed, contrary=(base, bad.latents_TC[:]) if poison else None):
        for step in range(training.total_steps):
            optimizer_step(training, step)
        yield Poisoned(training=training, duplicate=duplicate, poisoned=bad.name)
