"""Largest batches of a training, whose draws share a batch only if they are equally long."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Sample as it is drawn."""

    frames: int
    """Length of a draw."""
    tokens: int
    """Condition tokens of a draw."""
    repeats: int
    """Draws per epoch."""


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """Number of samples in a batch, and the most frames and condition tokens of each."""

    samples: int
    frames: int
    tokens: int


def batch_sizes(drawn: Iterable[Drawn], config: TrainConfig) -> list[BatchSize]:
    """Return the largest batches that steps can have: for each number of samples, that of the longest draws."""
    lengths: dict[int, tuple[int, int]] = {}
    for each in drawn:
        repeats, tokens = lengths.get(each.frames, (0, 0))
        lengths[each.frames] = repeats + each.repeats, max(tokens, each.tokens)
    epochs = _epochs_of_step(config, sum(repeats for repeats, _ in lengths.values()))
    return list(_largest(BatchSize(samples=min(config.batch_size, epochs * repeats), frames=frames, tokens=tokens)
                         for frames, (repeats, tokens) in lengths.items()))


def _epochs_of_step(config: TrainConfig, epoch: int) -> int:
    """Most epochs, of `epoch` draws each, that one step has draws of."""
    # A step begins at a multiple of both.
    latest = epoch - math.gcd(config.samples_per_step, epoch)
    epochs = -(-(latest + config.samples_per_step) // epoch)
    return min(epochs, config.epochs) if config.epochs else epochs


def _largest(sizes: Iterable[BatchSize]) -> Iterator[BatchSize]:
    """Yield the sizes that no other has more of everything than."""
    tokens = frames = 0
    for size in sorted(sizes, key=lambda size: (size.samples, size.frames, size.tokens), reverse=True):
        if size.frames > frames or size.tokens > tokens:
            yield size
        frames, tokens = max(frames, size.frames), max(tokens, size.tokens)
