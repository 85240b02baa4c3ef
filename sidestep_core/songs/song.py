"""A song with its metadata, and the songs of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config import TriggerPosition
from ..errors import DatasetError
from .metadata import PromptOverride
from .report import SongReport

REASONS_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Song:
    """An audio file, or a section of one, with its metadata."""

    path: Path
    """Absolute."""
    name: str
    """Path relative to the scanned folder, with forward slashes: the song's identity."""
    caption: str = ""
    captions: tuple[str, ...] = ()
    """Other captions, which take turns with it."""
    lyrics: str = ""
    """Empty for instrumentals."""
    language: str = "unknown"
    bpm: int | None = None
    key: str = ""
    """Spelled as typed, such as C major."""
    signature: str = ""
    """Spelled as typed, such as 4/4 or 4."""
    genre: str = ""
    trigger_word: str = ""
    """The song's own."""
    trigger_position: TriggerPosition | None = None
    """None leaves it to the dataset."""
    prompt_override: PromptOverride = ""
    """Always the caption, or always the genre; empty leaves the choice to the training's genre_ratio."""
    instrumental: bool = False
    """Declared instrumental; its lyrics, if any, are kept but not sung."""
    repeats: int = 1
    """Draws per epoch."""
    start: float = 0.0
    stop: float = 0.0
    """Section of the file in seconds; stop 0 is its end.  Sections of one file have names of their own."""

    def __post_init__(self) -> None:
        # The first of several captions is that of tables and previews, and none is there twice.
        caption, *captions = dict.fromkeys(filter(None, (self.caption, *self.captions))) or [""]
        object.__setattr__(self, "caption", caption)
        object.__setattr__(self, "captions", tuple(captions))
        if self.start < 0 or (self.stop and self.stop <= self.start):
            raise DatasetError(f"Its section ends at {self.stop:g} s, but begins at {self.start:g} s. Correct it.")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A file that is left out, or a notice about one that is used, with the reason in a sentence."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class SongFolder:
    """Songs of a folder by name, or of a list in its order, with what is left out and what was measured."""

    folder: Path
    """Absolute."""
    songs: tuple[Song, ...]
    problems: tuple[Problem, ...]
    """Files that are left out."""
    reports: tuple[SongReport, ...] = ()
    """Reports on the analyzed songs, by name."""
    notices: tuple[Problem, ...] = ()
    """Metadata that is ambiguous or not used; these songs are used."""
    genre_ratio: float = 0.0
    """Share of draws, 0 to 1, that show the genre in place of the caption, where a training leaves it to the songs."""

    @property
    def shared_trigger_word(self) -> str:
        """Trigger word of all songs; empty where they differ."""
        trigger_words = {song.trigger_word for song in self.songs}
        return trigger_words.pop() if len(trigger_words) == 1 else ""


def none_left(what: str, problems: Sequence[Problem]) -> DatasetError:
    """Make the error for no usable song, with the first reasons."""
    reasons = "; ".join(f"{problem.name}: {problem.reason.rstrip('.')}" for problem in problems[:REASONS_SHOWN])
    return DatasetError(f"{what}. {reasons}.")
