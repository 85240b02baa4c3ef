"""What a song's prompt says of it: caption, genre and lyrics, with the trigger word in its place."""

from __future__ import annotations

from ..songs.song import Song
from .config import PreprocessConfig

INSTRUMENTAL = "[Instrumental]"
"""What the model knows as the lyrics of music without any."""


def caption_of(song: Song, config: PreprocessConfig) -> str:
    """The caption, or else the genre, with the trigger word in its place; where the song says so, always the genre."""
    texts = (song.genre, song.caption) if song.prompt_override == "genre" else (song.caption, song.genre)
    return _with_trigger_word(next((text.strip() for text in texts if text.strip()), ""), song, config)


def genre_of(song: Song, config: PreprocessConfig) -> str:
    """The genre with the trigger word in its place; empty where it would not differ from the caption, or where the
    song says which of the two it always shows."""
    if song.prompt_override or not song.genre.strip():
        return ""
    genre = _with_trigger_word(song.genre.strip(), song, config)
    return "" if genre == caption_of(song, config) else genre


def lyrics_of(song: Song) -> str:
    """What is sung; [Instrumental] where nothing is, or where the song says so whatever its lyrics."""
    return INSTRUMENTAL if song.instrumental or not song.lyrics else song.lyrics


def _with_trigger_word(text: str, song: Song, config: PreprocessConfig) -> str:
    trigger_word = (song.trigger_word or config.trigger_word).strip()
    position = song.trigger_position or config.trigger_position
    if not trigger_word:
        return text
    if position == "replace" or not text:
        return trigger_word
    return f"{trigger_word}, {text}" if position == "prepend" else f"{text}, {trigger_word}"
