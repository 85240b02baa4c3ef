"""Texts that a sample's crops are told: the lyrics that are sung in them, and what dropout hides.

Every text has to be encoded, so a song has few: its crops begin where one of at most MAX_PASSAGES texts is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from ... import rng
from ...dataset.captions import INSTRUMENTAL
from ...dataset.sample_info import SampleInfo
from ...dataset.tensor_file import Rows
from ...model.prompts import Prompt
from ..config import ResolvedConfig

MAX_PASSAGES = 16
"""Most lyrics that the crops of one song are told."""
Caption = Literal["caption", "genre", "plain"]
"""Caption, its replacement, or the caption without the trigger word."""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Crops that are told the same lyrics: all that begin from frame `first` to frame `last`."""

    first: int
    last: int
    lyrics: str

    def nearest(self, start: int) -> int:
        """First frame of these crops that is nearest to `start`."""
        return min(max(start, self.first), self.last)


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts of one sample."""

    prompt: Prompt
    """Prompt of a crop with the caption and the lyrics of the whole song."""
    captions: Mapping[Caption, str]
    variants: tuple[str, ...]
    """Other captions."""
    passages: tuple[Passage, ...]
    open: Callable[[Prompt], Rows]
    """Opens the condition of a prompt."""

    def prompts(self, config: ResolvedConfig) -> Iterator[Prompt]:
        """Yield every prompt that a draw or a measurement may use."""
        captions = [*self.captions.values(), *self.variants, *([""] if config.caption_dropout else [])]
        lyrics = [*(passage.lyrics for passage in self.passages), *([""] if config.lyrics_dropout else [])]
        for caption in captions:
            for each in lyrics:
                yield replace(self.prompt, caption=caption, lyrics=each)

    def passage(self, start: int) -> Passage:
        """Passage with the crop that begins nearest to `start`."""
        return min(self.passages, key=lambda passage: abs(passage.nearest(start) - start))

    def measured(self, start: int) -> Rows:
        """Condition of a crop that is measured: its caption, and the lyrics of the nearest passage."""
        return self.open(replace(self.prompt, lyrics=self.passage(start).lyrics))

    def drawn(self, config: ResolvedConfig, number: int, caption: Caption, variant: int, passage: Passage) -> Rows:
        """Condition of draw `number` on a crop of the passage, parts of it hidden by chance."""
        text = self.variants[variant - 1] if variant and caption == "caption" else self.captions[caption]
        hides = {part: rng.bernoulli(chance, config.seed, part, number) for part, chance in (
            ("caption dropout", config.caption_dropout), ("lyrics dropout", config.lyrics_dropout))}
        return self.open(replace(self.prompt, caption="" if hides["caption dropout"] else text,
                                 lyrics="" if hides["lyrics dropout"] else passage.lyrics))


def texts_of(info: SampleInfo, config: ResolvedConfig, frames: int, grid: int, captions: Mapping[Caption, str],
             open_prompt: Callable[[Prompt], Rows]) -> Texts | None:
    """Texts for crops of `frames`, which begin at multiples of `grid`; None if every draw is told the same."""
    passages: tuple[Passage, ...] = ()
    if frames < info.frames and config.crop_lyrics != "whole":
        lines = info.lines(estimated=config.crop_lyrics == "estimated")
        passages = _passages(lines, info.frames, frames, grid)
    if not (passages or config.caption_dropout or config.lyrics_dropout) or info.foreign_condition:
        return None
    prompt = info.prompt(frames)
    everywhere = Passage(first=0, last=info.frames - frames, lyrics=prompt.lyrics)
    return Texts(prompt=prompt, captions=captions, variants=info.captions, passages=passages or (everywhere,),
                 open=open_prompt)


def is_estimated(info: SampleInfo, config: ResolvedConfig) -> bool:
    """Return True for a song whose crops have lines by their share of the song."""
    return config.crop_lyrics == "estimated" and not info.is_timed and bool(info.lines(estimated=True))


def _passages(lines: Sequence[tuple[int, str]], frames: int, crop: int, grid: int) -> tuple[Passage, ...]:
    """Passages of a song of `frames` for crops of `crop` frames, in the order of the song."""
    if not lines:
        return ()
    # The text changes where a line enters at the end of the crop, and where one leaves at its beginning.
    edges = {0, frames - crop + 1, *(middle - crop + 1 for middle, _ in lines), *(middle + 1 for middle, _ in lines)}
    found: list[Passage] = []
    for first, following in pairwise(sorted(edge for edge in edges if 0 <= edge <= frames - crop + 1)):
        lyrics = "".join(text for middle, text in lines if first <= middle < first + crop).strip() or INSTRUMENTAL
        first, last = -(-first // grid) * grid, (following - 1) // grid * grid
        if first <= last:
            found.append(Passage(first=first, last=last, lyrics=lyrics))
    if len(found) <= MAX_PASSAGES:
        return tuple(found)
    return tuple(found[round(number * (len(found) - 1) / (MAX_PASSAGES - 1))] for number in range(MAX_PASSAGES))
