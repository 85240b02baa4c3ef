"""Small training runs, for tests of whole runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.file import Adapter
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.io.tensors import read_tensors
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Progress, Report
from sidestep_core.training.batches import Batch
from sidestep_core.training.config import ResolvedConfig, TrainConfig
from sidestep_core.training.loss import Objective
from sidestep_core.training.resolve import resolve
from sidestep_core.training.setup import prepare
from sidestep_core.training.step import Training
from sidestep_core.training.train import train
from tests.tiny import TinySource

LORA = LoraConfig(rank=4, alpha=8.0, dropout=0.1)
CONFIG = TrainConfig(max_steps=6, learning_rate=3e-3, gradient_accumulation=2, warmup_steps=2, heldout_songs=1,
                     heldout_every=2, save_every=2, device="cpu", gradient_checkpointing="off",
                     timestep_mode="continuous", timestep_sampling="independent")


def settled(**values: Any) -> ResolvedConfig:
    """Settings below the door of a training, with plain values for the automatic ones."""
    automatic = {"schedule": "cosine", "timestep_mode": "continuous", "cfg_ratio": 0.15, "genre_ratio": 0.0,
                 "heldout_songs": 0, "heldout_sections": False, "shift": 1.0, "inference_steps": 50}
    return ResolvedConfig(**{**automatic, **values})


def prepared(checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig = LORA,
             config: TrainConfig = CONFIG) -> Training:
    """Everything that a step of this training needs."""
    return prepare(checkpoint, dataset, adapter, resolve(config, checkpoint, dataset))


def trained(checkpoint: Checkpoint, dataset: Dataset, folder: Path, adapter: AdapterConfig = LORA,
            config: TrainConfig = CONFIG, **more: Any) -> Adapter:
    """Train in `folder`/run to `folder`/a.safetensors."""
    source = TinySource(Path(), [])
    return train(source, checkpoint, dataset, adapter, config, folder / "run", folder / "a.safetensors", **more)


def stop_at(step: int, signal: BaseException) -> Report:
    """Make a report that stops the run in the middle of the step after `step`."""
    def report(progress: Progress) -> None:
        if progress.stage == "train" and progress.step >= step and not progress.metrics:
            raise signal
    return report


def same_tensors(one: Path, other: Path) -> bool:
    first, second = read_tensors(one), read_tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@dataclass
class Seen:
    """Input and output of the decoder."""

    x_BTC: Tensor
    t_B: Tensor
    condition_1ND: Tensor
    context_BTC: Tensor
    tokens: tuple[int, ...]
    predicted_BTC: Tensor

    @property
    def conditions(self) -> tuple[Tensor, ...]:
        """Condition [S, D] of each sample."""
        return self.condition_1ND[0].split(self.tokens)


def conditions(batch: Batch) -> tuple[Tensor, ...]:
    """Condition [S, D] of each sample."""
    return batch.condition_1ND[0].split(batch.tokens)


@contextmanager
def watched(objective: Objective) -> Iterator[list[Seen]]:
    """Collect everything that passes through the decoder inside the block."""
    seen: list[Seen] = []
    handle = objective.decoder.register_forward_hook(
        lambda module, inputs, predicted: seen.append(Seen(*inputs, predicted.detach())))
    try:
        yield seen
    finally:
        handle.remove()
