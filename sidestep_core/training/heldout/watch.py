"""Watch over trained songs, to notice those that are learned by heart.

Nearly pure noise shows almost nothing of a song: there a model that predicts a trained song much better than music
that it was never shown remembers it.  Each pass is made with the adapter and without, so that neither the song nor the
noise enters the comparison, and nothing has to be kept from the start of the training.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from ... import rng
from ...model import flow_matching
from ...model.flow_matching import TimestepDistribution
from ...runs.by_heart import Known
from ..config import ResolvedConfig
from ..data import Sample, crop_frames, grid
from .passes import Pass, frames_within, measurements

BUDGET = 0.02
"""Largest share of a training's time that watching may take, besides the held-out loss."""
HIGH = 0.75
"""Share of the distribution of times above which noise counts as high."""
PER_SONG = 2
"""Passes of each watched song, and of each held-out one that they are compared with, or crop of it."""
MOST_SONGS, HELD_OUT, FEWEST_HELD_OUT = 16, 4, 2
"""Most songs that are watched, and most and fewest held-out ones."""
LEARNED = 0.1
"""Share of the loss at high noise that a song must have lost beyond music that is not trained on."""
SURE = 3.0
"""And standard deviations of the passes of that music."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Passes of the watched songs and of the held-out ones, and the steps after which they are made."""

    trained: tuple[Pass, ...]
    """PER_SONG passes of each song, one song after the other."""
    heldout: tuple[Pass, ...]
    every: int
    """Steps between two times; the last step is always one."""

    def is_due(self, step: int) -> bool:
        """Return True if the songs are watched after this step, whether or not it is the last."""
        return step > 0 and step % self.every == 0


def choose(trained: Sequence[Sample], heldout: Sequence[Sample], config: ResolvedConfig,
           distribution: TimestepDistribution) -> Watch | None:
    """Choose the songs to watch, as many and as often as the budget allows: first those that are shown most.

    None if no song is held out, or if the budget does not allow for one song.
    """
    if not heldout:
        return None
    ranked = sorted(heldout, key=lambda sample: rng.seed(config.seed, "watched", sample.name))
    unknown = [_passes(ranked[number % len(ranked)], number // len(ranked), config, distribution, "held out")
               for number in range(HELD_OUT)]
    at_risk = sorted(trained, key=lambda sample: (-_shown(sample, config),
                                                  rng.seed(config.seed, "watched", sample.name)))
    songs = [_passes(sample, 0, config, distribution, "watched") for sample in at_risk[:MOST_SONGS]]
    budget = frames_within(BUDGET, trained, config)
    while songs and _frames([*songs, *unknown], config) > budget:
        (unknown if len(unknown) > max(FEWEST_HELD_OUT, len(songs)) else songs).pop()
    if not songs:
        return None
    times = budget // _frames([*songs, *unknown], config)
    every = config.heldout_every * math.ceil(measurements(trained, config) / times)
    return Watch(trained=tuple(chain(*songs)), heldout=tuple(chain(*unknown)), every=every)


def _shown(sample: Sample, config: ResolvedConfig) -> float:
    """Times that an epoch shows each frame of a sample."""
    frames = len(sample.latents_TC)
    return sample.repeats * crop_frames(frames, config) / frames


def _passes(sample: Sample, number: int, config: ResolvedConfig, distribution: TimestepDistribution,
            noise: str) -> tuple[Pass, ...]:
    """Passes `number` of a sample, each on a crop of its own, at times that are the same for every sample."""
    frames = len(sample.latents_TC)
    shares = HIGH + (1 - HIGH) * (torch.arange(PER_SONG) + 0.5) / PER_SONG
    found = []
    for crop, time in enumerate(flow_matching.times_at(distribution, shares).tolist(), start=number * PER_SONG):
        start = flow_matching.crop_start(frames, crop_frames(frames, config), crop,
                                         rng.seed(config.seed, "watched crop", sample.name), grid(config))
        found.append(Pass(sample=sample, start=start, time=time, noise=f"{noise} {crop}"))
    return tuple(found)


def _frames(songs: Sequence[Sequence[Pass]], config: ResolvedConfig) -> int:
    """Frames of passes that are made with the adapter and without."""
    return 2 * sum(crop_frames(len(one.sample.latents_TC), config) for song in songs for one in song)


def judge(watch: Watch, trained: Sequence[float], heldout: Sequence[float]) -> tuple[Known, ...]:
    """Judge the watched songs, best known first, by the logarithmic falls of the loss of each pass."""
    usual, spread = statistics.fmean(heldout), statistics.stdev(heldout)
    found = []
    for number in range(0, len(trained), PER_SONG):
        beyond = statistics.fmean(trained[number:number + PER_SONG]) - usual
        share = -math.expm1(-beyond)
        sample = watch.trained[number].sample
        found.append(Known(song=sample.name, share=share, repeats=sample.repeats,
                           by_heart=share > LEARNED and beyond > SURE * spread))
    return tuple(sorted(found, key=lambda song: -song.share))
