"""Defaults for all songs of a folder, and texts of another program; they change the handle, never the disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import Config, TriggerPosition, require
from ..errors import DatasetError
from .metadata import PromptOverride, Remarks
from .sidecars import parse_text
from .song import Problem, Song, SongFolder
from .unread import unknown


@dataclass(frozen=True, kw_only=True)
class BuildConfig(Config):
    """Defaults for songs whose own metadata has no value."""

    trigger_word: str = ""
    """Trigger word of songs without one of their own (sidecar, dataset.json)."""
    trigger_position: TriggerPosition = "prepend"
    """Position of the trigger word, of a song's own, too; `replace` makes it the whole caption."""
    genre_ratio: float = 0.0
    """Share of draws, rounded to percent, that show the genre in place of the caption, where a training leaves it to
    the songs; 0 keeps that of their dataset.json."""
    prompt_override: PromptOverride = ""
    """Always the caption, or always the genre; empty leaves the choice to the genre_ratio."""
    all_instrumental: bool = False
    """Treat every song as instrumental, whatever its metadata."""
    language: str = ""
    """Language of the lyrics, such as en."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.genre_ratio <= 1, f"genre_ratio must lie between 0 and 1, got {self.genre_ratio}.")


def build(found: SongFolder, config: BuildConfig) -> SongFolder:
    """Apply the defaults to every song; only genre_ratio and all_instrumental override its own metadata."""
    return dataclasses.replace(found, songs=tuple(_built(song, config) for song in found.songs),
                               genre_ratio=round(config.genre_ratio, 2) or found.genre_ratio)


def captioned(found: SongFolder, texts: Sequence[str], replace: bool) -> SongFolder:
    """Add the metadata of one text per song, in their order: a caption, or any form of a `song.txt`.

    Existing values stay unless `replace`; an empty text changes nothing, and text that is not used becomes a notice.
    Raises DatasetError for another number of texts than songs, or an invalid value.
    """
    if len(texts) != len(found.songs):
        raise DatasetError(f"Texts: {len(texts)}, songs: {len(found.songs)}. Give one for each, in their "
                           "order.")
    songs, notices = [], list(found.notices)
    for number, (song, text) in enumerate(zip(found.songs, texts, strict=True), start=1):
        remarks = Remarks()
        metadata: Mapping[str, Any] = parse_text(text, f"Text {number} (of {song.name})", remarks)
        notices += [Problem(name=song.name, reason=sentence) for sentence in remarks.sentences]
        notices += [Problem(name=name, reason=reason)
                    for name, reason in unknown((song.name, entry) for entry in remarks.unknown)]
        plain = vars(Song(path=song.path, name=song.name))
        new = {name: value for name, value in metadata.items() if replace or vars(song)[name] == plain[name]}
        songs.append(dataclasses.replace(song, **new))
    return dataclasses.replace(found, songs=tuple(songs), notices=tuple(notices))


def _built(song: Song, config: BuildConfig) -> Song:
    trigger_word = song.trigger_word or config.trigger_word.strip()
    language = config.language.strip().lower()
    return dataclasses.replace(
        song, trigger_word=trigger_word,
        # Without a trigger word, its position is left to the stage that adds one.
        trigger_position=song.trigger_position or (config.trigger_position if trigger_word else None),
        prompt_override=song.prompt_override or config.prompt_override,
        instrumental=song.instrumental or config.all_instrumental,
        language=language if song.language == "unknown" and language else song.language,
    )
