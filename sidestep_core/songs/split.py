"""Splitting of long songs into sections, at bar lines or at the quietest moments.

The files stay as they are; a section is a Song with a start and a stop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..audio import container, decode
from ..audio.tempo import analyzed, rhythm
from ..config import Config, require
from ..errors import DatasetError
from ..progress import Progress, Report, ignore
from ..sentence import Sentence
from .lyrics import divide, is_timed
from .report import clock
from .song import Problem, Song, SongFolder, none_left

SHORTEST = 10.0
_BLOCK_SECONDS = 300.0
_MOMENT = decode.SAMPLE_RATE // 20
_AROUND = 9
"""Moments (50 ms each) averaged in the search for the quietest."""
_SLACK = 0.9
"""Average length of sections relative to the longest allowed one, which leaves a choice of cuts."""
_REACH = 0.2
"""Share of a section by which a cut may move to a better place."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig(Config):
    """Length of sections, and places of the cuts."""

    seconds: float = 120.0
    """Longest section; songs up to this length stay whole."""
    at: Literal["bars", "silence"] = "bars"
    """bars: at bar lines, or as for silence without a clear beat; silence: at the quietest moments."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.seconds >= 2 * SHORTEST, f"seconds must be at least {2 * SHORTEST:g}, got {self.seconds}.")


def split(found: SongFolder, config: SplitConfig, *, report: Report = ignore) -> SongFolder:
    """Split the long songs of a folder into sections, named such as `a/song.flac [0:00-1:32]`.

    The sections of a song are contiguous, about equally long, and divide its lyrics (lyrics.divide).  They have no
    report yet.  Files of any length are read in blocks of five minutes.  Existing sections stay as they are; a song
    that cannot be decoded becomes a Problem.
    Raises DatasetError when no song is left, MissingDependency where bars need librosa.
    """
    songs: list[Song] = []
    problems = list(found.problems)
    for number, song in enumerate(found.songs):
        tick = partial(_tick, report, number, len(found.songs), Sentence("Splitting {name}", name=song.name))
        tick()
        try:
            songs += _sections(song, config, tick)
        except DatasetError as error:
            problems.append(Problem(name=song.name, reason=str(error)))
    if not songs:
        raise none_left("No song can be used", problems)
    names = {song.name for song in songs}
    return replace(found, songs=tuple(songs), reports=tuple(report for report in found.reports if report.name in names),
                   problems=tuple(sorted(problems, key=lambda problem: problem.name)))


def _tick(report: Report, step: int, total: int, message: str) -> None:
    report(Progress(stage="split", step=step, total=total, message=message))


def _sections(song: Song, config: SplitConfig, tick: Callable[[], None]) -> list[Song]:
    facts = container.facts(song.path)
    if song.start or song.stop or (not facts.guessed and 0 < facts.seconds <= config.seconds):
        return [song]
    seconds, levels, bars = _measure(song, config, tick)
    if seconds <= config.seconds:
        return [song]
    edges = [0.0, *_cuts(seconds, config.seconds, levels, bars), seconds]
    texts = divide(song.lyrics, [edge / seconds for edge in edges[1:-1]])
    if is_timed(song.lyrics):
        # Preprocessing takes those of the section by their times.
        texts = [song.lyrics] * len(texts)
    return [replace(song, name=f"{song.name} [{clock(start)}-{clock(stop)}]", start=start, stop=stop, lyrics=text)
            for (start, stop), text in zip(pairwise(edges), texts, strict=True)]


def _measure(song: Song, config: SplitConfig, tick: Callable[[], None]) -> tuple[float, Tensor, list[float]]:
    """Measure the length in seconds, the mean square of every 50 ms, and the bar lines in seconds."""
    moments: list[Tensor] = []
    bars: list[float] = []
    samples = 0
    for block in decode.blocks(song.path, _BLOCK_SECONDS):
        tick()
        padded = torch.nn.functional.pad(block, (0, -block.shape[1] % _MOMENT))
        moments.append(padded.square().mean(dim=0).view(-1, _MOMENT).mean(dim=1))
        if config.at == "bars":
            bars += [samples / decode.SAMPLE_RATE + bar for bar in _bars(analyzed(block))]
        samples += block.shape[1]
    # Round up to milliseconds, which are whole samples at 48 kHz.
    return math.ceil(samples / decode.SAMPLE_RATE * 1000) / 1000, torch.cat(moments), bars


def _bars(mono: Tensor) -> Sequence[float]:
    found = rhythm(mono)
    return found.beats[found.downbeat :: found.beats_per_bar] if found else ()


def _cuts(seconds: float, longest: float, levels: Tensor, bars: Sequence[float]) -> Iterator[float]:
    """Yield the cuts in seconds, rounded to milliseconds, so that no section is longer than `longest`."""
    count = math.ceil(seconds / (longest * _SLACK))
    before = 0.0
    for left in range(count - 1, 0, -1):
        length = (seconds - before) / (left + 1)
        # The rest must fit into the remaining sections.
        first = max(before + length * (1 - _REACH), seconds - left * longest)
        last = min(before + length * (1 + _REACH), before + longest)
        ideal = before + length
        near = [bar for bar in bars if first <= bar <= last]
        before = min(near, key=lambda bar: abs(bar - ideal)) if near else _quietest(levels, first, last, ideal)
        before = round(before, 3)
        yield before


def _quietest(levels: Tensor, first: float, last: float, ideal: float) -> float:
    """Quietest moment from `first` to `last` seconds; of equal ones the nearest to `ideal`."""
    each = _MOMENT / decode.SAMPLE_RATE
    smooth = torch.nn.functional.avg_pool1d(levels[None], _AROUND, 1, _AROUND // 2)[0]
    start = math.ceil(first / each)
    choice = smooth[start : max(start + 1, math.floor(last / each))]
    positions = (torch.arange(start, start + len(choice)) + 0.5) * each
    quiet = positions[choice <= choice.min() * 1.01 + 1e-12]
    return min(last, float(quiet[(quiet - ideal).abs().argmin()]))
