"""Text of a song's prompt: caption or genre, trigger word, and lyrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sidestep_core.dataset.captions import caption_of, captions_of, genre_of, lyrics_of, own_trigger_word
from sidestep_core.dataset.config import PreprocessConfig
from sidestep_core.songs.song import Song


@pytest.mark.parametrize(("caption", "genre", "own", "tag", "position", "expected"), [
    ("calm", "", "", "", "prepend", "calm"),
    ("calm", "", "", "zxq", "prepend", "zxq, calm"),
    ("calm", "", "", "zxq", "append", "calm, zxq"),
    ("calm", "", "", "zxq", "replace", "zxq"),
    ("calm", "", "own", "zxq", "prepend", "own, calm"),
    ("calm", "lo-fi", "", "zxq", "prepend", "zxq, calm"),
    ("", "lo-fi", "", "zxq", "append", "lo-fi, zxq"),
    ("", "", "", "zxq", "append", "zxq"),
    ("", "", "", "", "prepend", ""),
    (" calm ", "", "", " zxq ", "prepend", "zxq, calm"),
])  # fmt: skip
def test_trigger_word_position_is_followed(caption: str, genre: str, own: str, tag: str, position: str,
                                           expected: str) -> None:
    song = Song(path=Path("/a.wav"), name="a.wav", caption=caption, genre=genre, trigger_word=own)
    assert caption_of(song, PreprocessConfig(trigger_word=tag, trigger_position=position)) == expected


@pytest.mark.parametrize(("caption", "genre", "tag", "position", "expected"), [
    ("calm", "lo-fi", "", "prepend", "lo-fi"),
    ("calm", " lo-fi ", "zxq", "prepend", "zxq, lo-fi"),
    ("calm", "lo-fi", "zxq", "append", "lo-fi, zxq"),
    ("calm", "", "zxq", "append", ""),
    ("", "lo-fi", "zxq", "append", ""),
    ("lo-fi", "lo-fi", "", "prepend", ""),
    ("calm", "lo-fi", "zxq", "replace", ""),
])  # fmt: skip
def test_genre_differs_from_caption(caption: str, genre: str, tag: str, position: str, expected: str) -> None:
    song = Song(path=Path("/a.wav"), name="a.wav", caption=caption, genre=genre)
    assert genre_of(song, PreprocessConfig(trigger_word=tag, trigger_position=position)) == expected


@pytest.mark.parametrize(("own", "position", "tag", "expected"), [
    ("append", "prepend", "", "calm, zxq"),
    ("replace", "append", "", "zxq"),
    ("prepend", "append", "mine", "mine, calm"),
    (None, "append", "mine", "calm, mine"),
])  # fmt: skip
def test_songs_override_trigger_position(own: Any, position: Any, tag: str, expected: str) -> None:
    song = Song(path=Path("/a.wav"), name="a.wav", caption="calm", trigger_word=tag, trigger_position=own)
    assert caption_of(song, PreprocessConfig(trigger_word="zxq", trigger_position=position)) == expected


@pytest.mark.parametrize(("caption", "genre", "override", "expected"), [
    ("calm", "jazz", "", ("calm", "jazz")),
    ("calm", "jazz", "genre", ("jazz", "")),
    ("calm", "jazz", "caption", ("calm", "")),
    ("calm", "", "genre", ("calm", "")),
    ("", "jazz", "caption", ("jazz", "")),
])  # fmt: skip
def test_prompt_override_is_followed(caption: str, genre: str, override: Any, expected: object) -> None:
    song = Song(path=Path("/a.wav"), name="a.wav", caption=caption, genre=genre, prompt_override=override)
    assert (caption_of(song, PreprocessConfig()), genre_of(song, PreprocessConfig())) == expected


@pytest.mark.parametrize(("lyrics", "instrumental", "expected"), [
    ("la", False, "la"), ("la", True, "[Instrumental]"), ("", False, "[Instrumental]"), ("", True, "[Instrumental]"),
])  # fmt: skip
def test_missing_lyrics_are_instrumental(lyrics: str, instrumental: bool, expected: str) -> None:
    song = Song(path=Path("/a.wav"), name="a.wav", lyrics=lyrics, instrumental=instrumental)
    assert lyrics_of(song) == expected


@pytest.mark.parametrize(("captions", "tag", "position", "override", "expected"), [
    (("slow", "warm"), "", "prepend", "", ("slow", "warm")),
    (("slow", "calm", "slow"), "zxq", "append", "", ("slow, zxq",)),
    (("slow", "warm"), "zxq", "replace", "", ()),
    (("slow", "warm"), "zxq", "prepend", "genre", ()),
    ((), "zxq", "prepend", "", ()),
])  # fmt: skip
def test_other_captions_differ(captions: tuple[str, ...], tag: str, position: Any, override: Any,
                               expected: tuple[str, ...]) -> None:
    song = Song(path=Path("/a.wav"), name="a.wav", caption="calm", captions=captions, genre="jazz",
                prompt_override=override)
    assert captions_of(song, PreprocessConfig(trigger_word=tag, trigger_position=position)) == expected


def test_first_of_several_captions_is_the_caption() -> None:
    song = Song(path=Path("/a.wav"), name="a.wav", captions=("slow", "warm"))
    assert (song.caption, song.captions) == ("slow", ("warm",))


@pytest.mark.parametrize(("own", "shared", "expected"), [("mine", "zxq", "mine"), ("zxq", "zxq", ""), ("", "zxq", ""),
                                                         (" mine ", "", "mine")])
def test_own_trigger_word_is_kept(own: str, shared: str, expected: str) -> None:
    song = Song(path=Path("/a.wav"), name="a.wav", caption="calm", trigger_word=own)
    assert own_trigger_word(song, PreprocessConfig(trigger_word=shared)) == expected
