"""Long songs as several shorter ones, cut where it is heard least: at a bar line, or where it is quietest.

The files stay as they are; a section is a Song that names its part of the file.
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
from ..audio.tempo import analysed, rhythm
from ..config import Config, require
from ..errors import DatasetError
from ..progress import Progress, Report, ignore
from .lyrics import divide
from .report import clock
from .song import Problem, Song, SongFolder, none_left

SHORTEST = 10.0
_BLOCK_SECONDS = 300.0
_MOMENT = decode.SAMPLE_RATE // 20
_AROUND = 9
"""Moments (of 50 ms) whose level counts together when the quietest is looked for."""
_SLACK = 0.9
"""Share of the longest allowed length that sections have on average, so that there is a choice of where to cut."""
_REACH = 0.2
"""Share of a section by which a cut may be moved to a better place."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig(Config):
    """How long songs are cut into sections."""

    seconds: float = 120.0
    """No section is longer, and songs up to this length stay as they are."""
    at: Literal["bars", "silence"] = "bars"
    """bars: where a bar begins, and where no beat is heard as for silence; silence: at the quietest moments."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.seconds >= 2 * SHORTEST, f"seconds must be at least {2 * SHORTEST:g}, got {self.seconds}.")


def split(found: SongFolder, config: SplitConfig, *, report: Report = ignore) -> SongFolder:
    """The same folder with a Song for each section of its long songs, named such as `a/song.flac [0:00-1:32]`.

    The sections of a song are about equally long, begin where the one before stops, and share its lyrics out
    (lyric_parts.divide).  They have no report yet.  Files of any length are read in pieces of five minutes.  Songs that
    are sections already stay as they are; one that cannot be decoded becomes a Problem.
    Raises DatasetError when no song is left, MissingDependency where bars need librosa.
    """
    songs: list[Song] = []
    problems = list(found.problems)
    for number, song in enumerate(found.songs):
        tick = partial(_tick, report, number, len(found.songs), f"Cutting {song.name}")
        tick()
        try:
            songs += _sections(song, config, tick)
        except DatasetError as error:
            problems.append(Problem(name=song.name, reason=str(error)))
    if not songs:
        raise none_left("No song can be used", problems)
    names = {song.name for song in songs}
    return replace(found, songs=tuple(songs), reports=tuple(heard for heard in found.reports if heard.name in names),
                   problems=tuple(sorted(problems, key=lambda problem: problem.name)))


def _tick(report: Report, step: int, total: int, message: str) -> None:
    report(Progress(stage="listen", step=step, total=total, message=message))


def _sections(song: Song, config: SplitConfig, tick: Callable[[], None]) -> list[Song]:
    facts = container.facts(song.path)
    if song.start or song.stop or (not facts.guessed and 0 < facts.seconds <= config.seconds):
        return [song]
    seconds, levels, bars = _listen(song, config, tick)
    if seconds <= config.seconds:
        return [song]
    edges = [0.0, *_cuts(seconds, config.seconds, levels, bars), seconds]
    texts = divide(song.lyrics, [edge / seconds for edge in edges[1:-1]])
    return [replace(song, name=f"{song.name} [{clock(start)}-{clock(stop)}]", start=start, stop=stop, lyrics=text)
            for (start, stop), text in zip(pairwise(edges), texts, strict=True)]


def _listen(song: Song, config: SplitConfig, tick: Callable[[], None]) -> tuple[float, Tensor, list[float]]:
    """The length in seconds, the mean square of every 50 ms, and when bars begin, in seconds."""
    moments: list[Tensor] = []
    bars: list[float] = []
    samples = 0
    for block in decode.blocks(song.path, _BLOCK_SECONDS):
        tick()
        padded = torch.nn.functional.pad(block, (0, -block.shape[1] % _MOMENT))
        moments.append(padded.square().mean(dim=0).view(-1, _MOMENT).mean(dim=1))
        if config.at == "bars":
            bars += [samples / decode.SAMPLE_RATE + bar for bar in _bars(analysed(block))]
        samples += block.shape[1]
    # Whole milliseconds, which are whole samples; the last one may reach beyond the end.
    return math.ceil(samples / decode.SAMPLE_RATE * 1000) / 1000, torch.cat(moments), bars


def _bars(mono: Tensor) -> Sequence[float]:
    found = rhythm(mono)
    return found.beats[found.downbeat :: found.beats_per_bar] if found else ()


def _cuts(seconds: float, longest: float, levels: Tensor, bars: Sequence[float]) -> Iterator[float]:
    """Where to cut, in seconds, whole milliseconds, so that no section is longer than `longest`."""
    count = math.ceil(seconds / (longest * _SLACK))
    before = 0.0
    for left in range(count - 1, 0, -1):
        length = (seconds - before) / (left + 1)
        # What is left must fit into the sections that are left.
        first = max(before + length * (1 - _REACH), seconds - left * longest)
        last = min(before + length * (1 + _REACH), before + longest)
        ideal = before + length
        near = [bar for bar in bars if first <= bar <= last]
        before = min(near, key=lambda bar: abs(bar - ideal)) if near else _quietest(levels, first, last, ideal)
        before = round(before, 3)
        yield before


def _quietest(levels: Tensor, first: float, last: float, ideal: float) -> float:
    """The quietest moment from `first` to `last` seconds, of equal ones the nearest to `ideal`."""
    each = _MOMENT / decode.SAMPLE_RATE
    smooth = torch.nn.functional.avg_pool1d(levels[None], _AROUND, 1, _AROUND // 2)[0]
    begin = math.ceil(first / each)
    choice = smooth[begin : max(begin + 1, math.floor(last / each))]
    places = (torch.arange(begin, begin + len(choice)) + 0.5) * each
    quiet = places[choice <= choice.min() * 1.01 + 1e-12]
    return min(last, float(quiet[(quiet - ideal).abs().argmin()]))
