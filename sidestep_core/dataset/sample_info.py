"""One song of a dataset, as its manifest lists it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from ..io.record import Between
from ..model.flow_matching import FRAMES_PER_SECOND
from ..model.prompts import Prompt
from ..songs import lyrics as song_lyrics

MAX_FRAMES = FRAMES_PER_SECOND * 3600 * 24
MAX_REPEATS = 1_000_000

@dataclass(frozen=True, kw_only=True)
class SampleInfo:
    """File and length of the latents, the fields of the prompts, and the identity of the audio file."""

    name: str
    latents: str
    """Name of the safetensors file in the dataset's folder; content-addressed."""
    frames: Annotated[int, Between(1, MAX_FRAMES)]
    caption: str
    """Caption with the trigger word in its place."""
    genre: str
    """Replacement of the caption if a training uses genres; empty unless the song has both."""
    lyrics: str
    language: str
    bpm: int | None
    key: str
    signature: str
    audio: str
    """SHA-256 of the audio file."""
    size: int
    modified: int
    """Modification time in nanoseconds; while it and the size in bytes stay, the audio file is not read again."""
    repeats: Annotated[int, Between(1, MAX_REPEATS)] = 1
    """Draws per epoch."""
    start: Annotated[int, Between(0, MAX_FRAMES)] = 0
    """First of the latents' frames that belongs to the sample."""
    trigger_word: str = ""
    """The song's own, if it is another than that of the dataset."""
    captions: tuple[str, ...] = ()
    """Other captions, which take turns with the first; with the trigger word in its place."""
    foreign_condition: str = ""
    """File of a condition that another program made (and of one with the genre, if the song has one); no other one is
    encoded for the song."""

    @property
    def seconds(self) -> float:
        return self.frames / FRAMES_PER_SECOND

    def part(self, first: int, frames: int) -> SampleInfo:
        """Return so many frames of the sample, from number `first`, as a sample of their own."""
        return replace(self, start=self.start + first, frames=frames)

    def prompt(self, frames: int | None = None, *, genre: bool = False) -> Prompt:
        """Prompt that a person would use to generate `frames` (default: all) of this song.

        The lyrics are those of the whole song at any length, without their times.
        """
        seconds = (self.frames if frames is None else frames) / FRAMES_PER_SECOND
        return Prompt(caption=self.genre if genre else self.caption, lyrics=song_lyrics.plain(self.lyrics),
                      language=self.language, bpm=self.bpm, key=self.key, signature=self.signature, seconds=seconds)

    @property
    def is_timed(self) -> bool:
        return song_lyrics.is_timed(self.lyrics)

    def lines(self, *, estimated: bool = False) -> list[tuple[int, str]]:
        """Lines or words of the lyrics with the frames of their middles; with estimated ones if they have no times.

        Empty if they have none.  The last part of a song alone does not say which share of it it is: no estimate.
        """
        start = self.start / FRAMES_PER_SECOND
        if self.is_timed:
            lyrics = song_lyrics.section(self.lyrics, start, start + self.seconds) if start else self.lyrics
            units = song_lyrics.units(lyrics)
        else:
            units = song_lyrics.estimated(self.lyrics, self.seconds) if estimated and not start else []
        middles = song_lyrics.middles(units, self.seconds)
        return [(int(middle * FRAMES_PER_SECOND), unit.text) for unit, middle in zip(units, middles, strict=True)]

    def variants(self, frames: int | None = None) -> tuple[Prompt, ...]:
        """Prompts with each of the captions."""
        first = self.prompt(frames)
        return (first, *(replace(first, caption=caption) for caption in self.captions))

    def prompts(self, frames: int | None = None) -> tuple[Prompt, ...]:
        """Prompts with each of the captions, and with the genre if there is one."""
        genres = (self.prompt(frames, genre=True),) if self.genre else ()
        return (*self.variants(frames), *genres)
