"""Composition of batches: the sample and the crop that each draw trains on, a pure function of the seed and the step.

A draw is one sample trained on once; draws are numbered through the whole training.  Names given to `generator` and
`seed` are part of the random numbers: renaming one changes every run.
Shapes: B batch, T latent frame, C latent channel, S condition token, N tokens of all samples, D width.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from operator import attrgetter

import torch
from torch import Tensor

from .. import rng
from ..dataset.sample_info import SampleInfo
from ..dataset.tensor_file import Rows
from ..device import send
from ..model import flow_matching
from .config import ResolvedConfig
from .data import Sample, crop_frames, grid
from .draws import times
from .draws.texts import Caption


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of equal length, their conditions end to end; nothing is padded."""

    x0_BTC: Tensor
    condition_1ND: Tensor
    tokens: tuple[int, ...]
    """Condition tokens of each sample."""
    context_BTC: Tensor
    draws: tuple[int, ...]
    """Number of each sample's draw, from which all its randomness follows."""
    preserved: tuple[bool, ...]
    """True for each sample whose target is the prediction without the adapter."""
    shares: tuple[float, ...] | None = None
    """Place of each sample's time in the distribution of times; None: times are drawn independently."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Move to the device; condition and context in the model's dtype, latents in float32."""
        return replace(self, x0_BTC=send(self.x0_BTC, device), condition_1ND=send(self.condition_1ND, device, dtype),
                       context_BTC=send(self.context_BTC, device, dtype))


def draws_per_epoch(samples: Iterable[Sample | SampleInfo]) -> int:
    """Number of draws that show every sample as often as its repeats ask for."""
    return sum(sample.repeats for sample in samples)


def count_songs(samples: Sequence[Sample | SampleInfo]) -> int:
    """Number of different audio files among the samples."""
    return len({sample.audio or sample.name for sample in samples})


def shuffled(count: int, seed: int, draw: int) -> int:
    """Position within the epoch's `count` draws that draw number `draw` takes; every epoch is its own permutation."""
    epoch, position = divmod(draw, count)
    return int(_order(count, seed, epoch)[position])


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> Tensor:
    """Permutation of an epoch, which every draw of it reads."""
    return torch.randperm(count, generator=rng.generator(seed, "order", epoch))


def sample_index(samples: Sequence[Sample | SampleInfo], seed: int, draw: int) -> int:
    """Index of the sample that draw number `draw` trains on."""
    return _sample_and_repeat(ends_of(samples), seed, draw)[0]


def ends_of(samples: Sequence[Sample | SampleInfo]) -> list[int]:
    """Cumulative repeats: the end of each sample's positions in an unshuffled epoch."""
    return list(accumulate(map(attrgetter("repeats"), samples)))


def _sample_and_repeat(ends: Sequence[int], seed: int, draw: int) -> tuple[int, int]:
    """Index of the sample that a draw trains on, and the number of its repeat within the epoch."""
    position = shuffled(ends[-1], seed, draw)
    index = bisect_right(ends, position)
    return index, position - (ends[index - 1] if index else 0)


def draws_of_step(config: ResolvedConfig, epoch: int, step: int) -> range:
    """Draws of one optimizer step (0-based) with `epoch` draws per epoch.

    The last step of a run by epochs has the rest of the last epoch.
    """
    first = step * config.samples_per_step
    last = first + config.samples_per_step
    return range(first, min(last, config.epochs * epoch) if config.epochs else last)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One draw before anything of it is read."""

    number: int
    sample: Sample
    nth: int
    """Number of the sample's draw."""
    preserved: bool
    share: float | None


@dataclass(frozen=True, kw_only=True)
class _Crop:
    """Tensors of one draw: a crop, its condition, and the source latents of its context."""

    x0_TC: Tensor
    condition_SD: Tensor
    source_TC: Tensor


def batches(samples: Sequence[Sample], silence_TC: Tensor, config: ResolvedConfig, step: int) -> Iterator[Batch]:
    """Read the batches of one optimizer step."""
    for group in groups(samples, config, step):
        yield read(group, silence_TC, config)


def groups(samples: Sequence[Sample], config: ResolvedConfig, step: int,
           ends: Sequence[int] | None = None) -> list[tuple[Draw, ...]]:
    """List the draws of each batch of one optimizer step: of equal length, at most batch_size; no file is read.

    `ends` are those of the samples, if they are known: they take a while for ten thousand songs.
    """
    ends = ends or ends_of(samples)
    numbers = draws_of_step(config, ends[-1], step)
    chosen = [_sample_and_number(samples, ends, config.seed, number) for number in numbers]
    shares: Sequence[float | None] = [None] * len(chosen)
    if config.timestep_sampling == "stratified":
        shares = times.shares(config.seed, [(sample.name, nth) for sample, nth in chosen])
    by_length: dict[int, list[Draw]] = {}
    for number, share, (sample, nth) in zip(numbers, shares, chosen, strict=True):
        draw = Draw(number=number, sample=sample, nth=nth, share=share,
                    preserved=rng.bernoulli(config.preserve, config.seed, "preserve", number))
        by_length.setdefault(crop_frames(len(sample.latents_TC), config), []).append(draw)
    return [tuple(draws[first:first + config.batch_size]) for draws in by_length.values()
            for first in range(0, len(draws), config.batch_size)]


def read(group: Sequence[Draw], silence_TC: Tensor, config: ResolvedConfig) -> Batch:
    """Read the batch of a group of draws."""
    shares = tuple(draw.share for draw in group if draw.share is not None)
    return _collate([_read(draw, silence_TC, config) for draw in group], draws=tuple(draw.number for draw in group),
                    preserved=tuple(draw.preserved for draw in group), shares=shares or None)


class Prefetched:
    """Batches that were read before they are due."""

    def __init__(self) -> None:
        self._batches: dict[tuple[int, ...], Batch] = {}

    def take(self, group: Sequence[Draw], read: Callable[[Sequence[Draw]], Batch]) -> Batch:
        """Return the batch of a group of draws; read it if it was not fetched, or if it was taken before."""
        return self._batches.pop(_numbers(group), None) or read(group)

    def fetch(self, groups: Iterable[Sequence[Draw]], read: Callable[[Sequence[Draw]], Batch]) -> None:
        """Hold the batches of these groups, and no others."""
        self._batches = {_numbers(group): self._batches.get(_numbers(group)) or read(group) for group in groups}


def _numbers(group: Sequence[Draw]) -> tuple[int, ...]:
    return tuple(draw.number for draw in group)


def _sample_and_number(samples: Sequence[Sample], ends: Sequence[int], seed: int, number: int) -> tuple[Sample, int]:
    """Sample that a draw trains on, and the number of the sample's draw."""
    index, repeat = _sample_and_repeat(ends, seed, number)
    return samples[index], number // ends[-1] * samples[index].repeats + repeat


def _read(draw: Draw, silence_TC: Tensor, config: ResolvedConfig) -> _Crop:
    """Crop the sample for the draw, with the next of its captions; by chance use its genre, and codes for silence."""
    sample, number = draw.sample, draw.number
    with_genre = rng.bernoulli(config.genre_ratio, config.seed, "genre", number) and sample.genre_SD is not None
    caption: Caption = "plain" if draw.preserved else "genre" if with_genre else "caption"
    ratio = {"silence": 0.0, "mixed": config.codes_ratio, "codes": 1.0}[config.context_mode]
    codes = sample.codes_TC if rng.bernoulli(ratio, config.seed, "codes", number) else None
    frames = len(sample.latents_TC)
    start = flow_matching.crop_start(frames, crop_frames(frames, config), draw.nth,
                                     rng.seed(config.seed, "window", sample.name), grid(config))
    variant = shuffled(1 + len(sample.variants_SD), rng.seed(config.seed, "caption", sample.name), draw.nth)
    captions = (sample.condition_SD, *sample.variants_SD)
    condition = {"caption": captions[variant], "genre": sample.genre_SD, "plain": sample.plain_SD}[caption]
    if sample.texts is not None:
        passage = sample.texts.passage(start)
        start, condition = passage.nearest(start), sample.texts.drawn(config, number, caption, variant, passage)
    assert condition is not None
    return _crop(sample, silence_TC, config, start, condition, codes)


def single(sample: Sample, start: int, silence_TC: Tensor, config: ResolvedConfig) -> Batch:
    """Batch of one crop for the held-out loss, from frame `start`; of the whole song unless training crops.

    Always with the caption; with codes only if training always has them.
    """
    codes = sample.codes_TC if config.context_mode == "codes" else None
    condition = sample.condition_SD if sample.texts is None else sample.texts.measured(start)
    crop = _crop(sample, silence_TC, config, start, condition, codes)
    return _collate([crop], draws=(0,), preserved=(False,))


def _crop(sample: Sample, silence_TC: Tensor, config: ResolvedConfig, start: int, condition_SD: Rows,
          codes_TC: Rows | None) -> _Crop:
    length = crop_frames(len(sample.latents_TC), config)
    # A crop stands for a whole passage of music: its context is silence from its first frame on.
    source_TC = silence_TC[:length] if codes_TC is None else codes_TC[start:start + length]
    return _Crop(x0_TC=sample.latents_TC[start:start + length], condition_SD=condition_SD[:], source_TC=source_TC)


def _collate(crops: Sequence[_Crop], *, draws: tuple[int, ...], preserved: tuple[bool, ...],
             shares: tuple[float, ...] | None = None) -> Batch:
    return Batch(
        x0_BTC=torch.stack([crop.x0_TC for crop in crops]),
        condition_1ND=torch.cat([crop.condition_SD for crop in crops])[None],
        tokens=tuple(len(crop.condition_SD) for crop in crops),
        context_BTC=flow_matching.context_latents(torch.stack([crop.source_TC for crop in crops])),
        draws=draws, preserved=preserved, shares=shares,
    )
