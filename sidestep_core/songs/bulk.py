"""One change of the metadata of many songs, known before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..config import Config, require
from .metadata import SongMetadata
from .song import Song

Action = Literal["replace", "genre", "trigger_word"]
MAX_TEXT = 1000


@dataclass(frozen=True, kw_only=True)
class BulkEdit(Config):
    """Change of many songs: find and replace in captions and lyrics, or another genre or trigger word."""

    action: Action
    text: str
    """New text; empty removes it."""
    find: str = ""
    """Text to replace, with upper and lower case as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("text", "find"):
            value = getattr(self, name)
            require(len(value) <= MAX_TEXT, f"{name} has {len(value)} characters; use at most {MAX_TEXT}.")
            # Lyrics have lines, but all of these are shown in one.
            require("\n" not in value and "\r" not in value, f"{name} must be a single line.")
        require(self.action != "replace" or bool(self.find), "Enter the text to find.")


def changed(song: Song, edit: BulkEdit) -> SongMetadata:
    """Metadata of a song that the edit changes, with the new values; empty if there is none."""
    text = edit.text.strip()
    match edit.action:
        case "replace":
            found: SongMetadata = {}
            if edit.find in song.caption:
                found["caption"] = song.caption.replace(edit.find, edit.text).strip()
            if edit.find in song.lyrics:
                found["lyrics"] = song.lyrics.replace(edit.find, edit.text).strip()
            same = found.get("caption") == song.caption and found.get("lyrics", song.lyrics) == song.lyrics
            return {} if same else found
        case "genre":
            return {} if song.genre == text else {"genre": text}
        case "trigger_word":
            return {} if song.trigger_word == text else {"trigger_word": text}


def changes(songs: Sequence[Song], edit: BulkEdit) -> Iterator[tuple[int, SongMetadata]]:
    """Yield the index of each song that the edit changes, with its new values."""
    for index, song in enumerate(songs):
        if new := changed(song, edit):
            yield index, new
