"""Text of a song's prompt: caption, genre and lyrics, with the trigger word in its place."""

from __future__ import annotations

from ..songs import lyrics as song_lyrics
from ..songs.song import Song
from .config import PreprocessConfig

INSTRUMENTAL = "[Instrumental]"
"""Lyrics that the model knows for instrumental music."""


def caption_of(song: Song, config: PreprocessConfig) -> str:
    """Caption, or else the genre, with the trigger word in its place; always the genre if the song overrides it."""
    texts = (song.genre, song.caption) if song.prompt_override == "genre" else (song.caption, song.genre)
    return _with_trigger_word(next((text.strip() for text in texts if text.strip()), ""), song, config)


def captions_of(song: Song, config: PreprocessConfig) -> tuple[str, ...]:
    """Other captions of the song, with the trigger word in its place; none if it always shows its genre."""
    if song.prompt_override == "genre":
        return ()
    every = [caption_of(song, config), *(_with_trigger_word(text.strip(), song, config) for text in song.captions)]
    return tuple(dict.fromkeys(every))[1:]


def genre_of(song: Song, config: PreprocessConfig) -> str:
    """Genre with the trigger word in its place; empty if it would not differ from the caption, or if the song always
    shows one of the two."""
    if song.prompt_override or not song.genre.strip():
        return ""
    genre = _with_trigger_word(song.genre.strip(), song, config)
    return "" if genre == caption_of(song, config) else genre


def own_trigger_word(song: Song, config: PreprocessConfig) -> str:
    """Trigger word of a song that has another than the dataset; else empty."""
    own = song.trigger_word.strip()
    return "" if own == config.trigger_word.strip() else own


def without_trigger_word(caption: str, trigger_word: str) -> str:
    """Caption as it was before the trigger word; empty where that is all, and where there is none to take out."""
    found = caption.removeprefix(f"{trigger_word}, ").removesuffix(f", {trigger_word}")
    return found if trigger_word and found != caption else ""


def lyrics_of(song: Song) -> str:
    """Lyrics, of a section by their times if they have some; [Instrumental] if there are none, or if the song is marked
    as instrumental."""
    lyrics = song.lyrics
    if (song.start or song.stop) and song_lyrics.is_timed(lyrics):
        lyrics = song_lyrics.section(lyrics, song.start, song.stop)
    return INSTRUMENTAL if song.instrumental or not lyrics else lyrics


def _with_trigger_word(text: str, song: Song, config: PreprocessConfig) -> str:
    trigger_word = (song.trigger_word or config.trigger_word).strip()
    position = song.trigger_position or config.trigger_position
    if not trigger_word:
        return text
    if position == "replace" or not text:
        return trigger_word
    return f"{trigger_word}, {text}" if position == "prepend" else f"{text}, {trigger_word}"
