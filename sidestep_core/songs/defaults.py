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
    """What is said about every song that does not say it itself."""

    trigger_word: str = ""
    """Trigger word; a song's own (sidecar, dataset.json) takes its place."""
    trigger_position: TriggerPosition = "prepend"
    """Where a song's trigger word goes, its own too; `replace` makes it the whole caption."""
    genre_ratio: float = 0.0
    """Share of visits, in whole percent, that show the genre in place of the caption, where a training leaves it to the
    songs; 0: what their dataset.json says, or none."""
    prompt_override: PromptOverride = ""
    """Show always the caption, or always the genre; empty leaves it to chance by the genre_ratio."""
    all_instrumental: bool = False
    """Nothing is sung in any of the songs, whatever is written about them."""
    language: str = ""
    """Of the lyrics, such as en."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.genre_ratio <= 1, f"genre_ratio must lie between 0 and 1, got {self.genre_ratio}.")


def build(found: SongFolder, config: BuildConfig) -> SongFolder:
    """The same songs, with what the config says about each; only genre_ratio and all_instrumental overrule songs."""
    return dataclasses.replace(found, songs=tuple(_built(song, config) for song in found.songs),
                               genre_ratio=round(config.genre_ratio, 2) or found.genre_ratio)


def captioned(found: SongFolder, texts: Sequence[str], replace: bool) -> SongFolder:
    """The songs with what one text for each says, in their order: a caption, or any dialect of a `song.txt`.

    What a song says already stays unless it is to be replaced; an empty text says nothing, and what else is not used of
    a text is a notice.  Raises DatasetError when
    there is not one text for each song, or one cannot be what it says.
    """
    if len(texts) != len(found.songs):
        raise DatasetError(f"Texts: {len(texts)}, songs: {len(found.songs)}. Give one for each, in their "
                           "order.")
    songs, notices = [], list(found.notices)
    for number, (song, text) in enumerate(zip(found.songs, texts, strict=True), start=1):
        remarks = Remarks()
        said: Mapping[str, Any] = parse_text(text, f"Text {number} (of {song.name})", remarks)
        notices += [Problem(name=song.name, reason=sentence) for sentence in remarks.sentences]
        notices += [Problem(name=name, reason=reason)
                    for name, reason in unknown((song.name, entry) for entry in remarks.unknown)]
        plain = vars(Song(path=song.path, name=song.name))
        new = {name: value for name, value in said.items() if replace or vars(song)[name] == plain[name]}
        songs.append(dataclasses.replace(song, **new))
    return dataclasses.replace(found, songs=tuple(songs), notices=tuple(notices))


def _built(song: Song, config: BuildConfig) -> Song:
    trigger_word = song.trigger_word or config.trigger_word.strip()
    language = config.language.strip().lower()
    return dataclasses.replace(
        song, trigger_word=trigger_word,
        # Without a trigger word the place of one is left to whoever brings it.
        trigger_position=song.trigger_position or (config.trigger_position if trigger_word else None),
        prompt_override=song.prompt_override or config.prompt_override,
        instrumental=song.instrumental or config.all_instrumental,
        language=language if song.language == "unknown" and language else song.language,
    )
