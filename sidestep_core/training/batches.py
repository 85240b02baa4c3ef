"""Which songs each training step visits, and what a visit trains on: a pure function of the seed and the step.

Shapes: B batch, T latent frame, C latent channel, S condition token, D width.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from .. import rng
from ..dataset.manifest import Dataset
from ..dataset.sample_info import SampleInfo
from ..errors import DatasetError
from ..model import flow_matching
from .config import TrainConfig
from .data import Sample, crop_frames

_S = TypeVar("_S", Sample, SampleInfo)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of equal length and equal number of condition tokens; nothing is padded."""

    x0_BTC: Tensor
    condition_BSD: Tensor
    context_BTC: Tensor
    visits: tuple[int, ...]
    """Running number of each sample's visit in the whole training; all randomness of the visit hangs on it."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """On the device; the condition and context in the model's dtype, the latents in float32."""
        return Batch(x0_BTC=self.x0_BTC.to(device), condition_BSD=self.condition_BSD.to(device, dtype),
                     context_BTC=self.context_BTC.to(device, dtype), visits=self.visits)


def _heldout(songs: int, config: TrainConfig) -> int:
    """How many of so many songs are never trained on."""
    count = config.heldout_songs
    if count == -1:
        count = 0 if songs < 4 else max(1, songs // 10)
    if count >= songs:
        raise DatasetError(f"heldout_songs is {count} but the dataset has {songs} song(s); "
                           "none would be left to train on. Lower heldout_songs or add songs.")
    return count


def visits_per_epoch(samples: Iterable[Sample | SampleInfo]) -> int:
    """How many visits show every song as often as it asks for."""
    return sum(sample.repeats for sample in samples)


def trained_visits(dataset: Dataset, config: TrainConfig) -> int:
    """Visits per epoch of a training with this config.  DatasetError where no song would be left to train on."""
    return visits_per_epoch(split_heldout(dataset.samples, config)[0])


def split_heldout(samples: Sequence[_S], config: TrainConfig) -> tuple[tuple[_S, ...], tuple[_S, ...]]:
    """(trained on, held out): a choice by seed and name, so that adding a song does not reshuffle the others.

    Sections of one audio file, and copies of it, are one song here: part of it in training would give the rest away.
    """
    songs: dict[str, list[_S]] = {}
    for sample in samples:
        songs.setdefault(sample.audio or sample.name, []).append(sample)
    count = _heldout(len(songs), config)
    ranked = sorted(songs.values(), key=lambda same: rng.seed(
        config.seed, "heldout", min(one.name for one in same)))
    chosen = {sample.name for same in ranked[:count] for sample in same}
    trained = tuple(sample for sample in samples if sample.name not in chosen)
    return trained, tuple(sample for sample in samples if sample.name in chosen)


def visited(count: int, seed: int, visit: int) -> int:
    """Which of an epoch's `count` turns visit number `visit` is: each epoch is its own permutation, a pure function of
    the seed."""
    epoch, position = divmod(visit, count)
    return int(torch.randperm(count, generator=rng.generator(seed, "order", epoch))[position])


def song_of_visit(samples: Sequence[Sample | SampleInfo], seed: int, number: int) -> int:
    """Index of the song that visit number `number` shows."""
    return _turn(_ends(samples), seed, number)[0]


def _ends(samples: Sequence[Sample | SampleInfo]) -> list[int]:
    """After how many turns of an epoch in the songs' own order those of each end."""
    return list(accumulate(sample.repeats for sample in samples))


def _turn(ends: Sequence[int], seed: int, number: int) -> tuple[int, int]:
    """Index of the song that a visit shows, and how many turns of the epoch are it before this one."""
    turn = visited(ends[-1], seed, number)
    index = bisect_right(ends, turn)
    return index, turn - (ends[index - 1] if index else 0)


def visits_of_step(config: TrainConfig, epoch: int, step: int) -> range:
    """The visits of one optimizer step (0-based), where an epoch has so many; the last step of a run by epochs has what
    is left of the last."""
    first = step * config.samples_per_step
    last = first + config.samples_per_step
    return range(first, min(last, config.epochs * epoch) if config.epochs else last)


@dataclass(frozen=True, kw_only=True)
class _Visit:
    """What one visit trains on: a window, the words it is told, and the source of its context."""

    number: int
    x0_TC: Tensor
    condition_SD: Tensor
    source_TC: Tensor


def batches(samples: Sequence[Sample], silence_TC: Tensor, config: TrainConfig, step: int) -> Iterator[Batch]:
    """The batches of one optimizer step: its visits in groups of equal shape, at most batch_size in each."""
    groups: dict[tuple[int, int], list[_Visit]] = {}
    ends = _ends(samples)
    for number in visits_of_step(config, ends[-1], step):
        index, turn = _turn(ends, config.seed, number)
        sample = samples[index]
        visit = _visit(sample, silence_TC, config, number, number // ends[-1] * sample.repeats + turn)
        groups.setdefault((visit.x0_TC.shape[0], visit.condition_SD.shape[0]), []).append(visit)
    for group in groups.values():
        for first in range(0, len(group), config.batch_size):
            yield _collate(group[first:first + config.batch_size])


def _visit(sample: Sample, silence_TC: Tensor, config: TrainConfig, number: int, turn: int) -> _Visit:
    """A new window every turn of the song, by chance of the visit the genre for the caption and codes for silence."""
    genre = sample.genre_SD if rng.bernoulli(config.genre_ratio, config.seed, "genre", number) else None
    ratio = {"silence": 0.0, "mixed": config.codes_ratio, "codes": 1.0}[config.context_mode]
    codes = sample.codes_TC if rng.bernoulli(ratio, config.seed, "codes", number) else None
    frames = sample.latents_TC.shape[0]
    start = flow_matching.crop_start(frames, crop_frames(frames, config), turn,
                              rng.seed(config.seed, "window", sample.name), _grid(config))
    return _cut(sample, silence_TC, config, number, start, sample.condition_SD if genre is None else genre, codes)


def whole(sample: Sample, silence_TC: Tensor, config: TrainConfig) -> Batch:
    """One sample as the held-out loss sees it: whole, or its middle window when training crops.

    Always with its caption; with codes only where training always has them.
    """
    frames = sample.latents_TC.shape[0]
    start = (frames - crop_frames(frames, config)) // 2 // _grid(config) * _grid(config)
    codes = sample.codes_TC if config.context_mode == "codes" else None
    return _collate([_cut(sample, silence_TC, config, 0, start, sample.condition_SD, codes)])


def _grid(config: TrainConfig) -> int:
    """Windows begin where an audio code does, if there are codes: generation knows no half ones."""
    return 1 if config.context_mode == "silence" else flow_matching.FRAMES_PER_CODE


def _cut(sample: Sample, silence_TC: Tensor, config: TrainConfig, number: int, start: int, condition_SD: Tensor,
         codes_TC: Tensor | None) -> _Visit:
    length = crop_frames(sample.latents_TC.shape[0], config)
    # A crop is a piece of its own: its context is silence from its first frame on.
    source_TC = silence_TC[:length] if codes_TC is None else codes_TC[start:start + length]
    return _Visit(number=number, x0_TC=sample.latents_TC[start:start + length], condition_SD=condition_SD,
                  source_TC=source_TC)


def _collate(group: Sequence[_Visit]) -> Batch:
    return Batch(
        x0_BTC=torch.stack([visit.x0_TC for visit in group]),
        condition_BSD=torch.stack([visit.condition_SD for visit in group]),
        context_BTC=flow_matching.context_latents(torch.stack([visit.source_TC for visit in group])),
        visits=tuple(visit.number for visit in group),
    )
