"""One song of a dataset, as its manifest lists it."""

from __future__ import annotations

from dataclasses import dataclass

from ..model.flow_matching import FRAMES_PER_SECOND
from ..model.prompts import Prompt


@dataclass(frozen=True, kw_only=True)
class SampleInfo:
    """Where its latents are, how long it is, every field of its prompts, and which audio file it was."""

    name: str
    latents: str
    """Name of the safetensors file in the dataset's folder; content-addressed."""
    frames: int
    caption: str
    """With the trigger word in its place."""
    genre: str
    """What stands in place of the caption where a training asks for genres; empty where the song has not both."""
    lyrics: str
    language: str
    bpm: int | None
    key: str
    signature: str
    audio: str
    """SHA-256 of the audio file."""
    size: int
    modified: int
    """Size in bytes and modification time in nanoseconds of the audio file: while both stay, it is not read again."""
    repeats: int = 1
    """How often an epoch visits it."""
    foreign_condition: str = ""
    """Name of the file of a condition that another program made (and of one with the genre, where the song has one); no
    other is made, of the fields above or of another length."""

    @property
    def seconds(self) -> float:
        return self.frames / FRAMES_PER_SECOND

    def prompt(self, frames: int | None = None, *, genre: bool = False) -> Prompt:
        """What a person would type into the host's text node to get so many frames (all of them) of this song.

        The lyrics are those of the whole song at any length: which of them a window sings is not known.
        """
        seconds = (self.frames if frames is None else frames) / FRAMES_PER_SECOND
        return Prompt(caption=self.genre if genre else self.caption, lyrics=self.lyrics, language=self.language,
                      bpm=self.bpm, key=self.key, signature=self.signature, seconds=seconds)

    def prompts(self, frames: int | None = None) -> tuple[Prompt, ...]:
        """With the caption, and with the genre where there is one."""
        genres = (self.prompt(frames, genre=True),) if self.genre else ()
        return (self.prompt(frames), *genres)
