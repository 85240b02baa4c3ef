"""Defaults for all songs, and texts of another program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidestep_core.errors import ConfigError, DatasetError
from sidestep_core.songs.defaults import BuildConfig, build, captioned
from sidestep_core.songs.song import Song, SongFolder


def folder(*songs: dict[str, Any], genre_ratio: float = 0.0) -> SongFolder:
    made = tuple(Song(path=Path(f"/music/{number}.wav"), name=f"{number}.wav", **notes)
                 for number, notes in enumerate(songs))
    return SongFolder(folder=Path("/music"), songs=made, problems=(), genre_ratio=genre_ratio)


def test_own_metadata_wins() -> None:
    config = BuildConfig(trigger_word=" ours ", trigger_position="append", prompt_override="genre", language="EN")
    plain, own = build(folder({}, {"trigger_word": "mine", "trigger_position": "replace", "prompt_override": "caption",
                                   "language": "de"}), config).songs
    assert (plain.trigger_word, plain.trigger_position) == ("ours", "append")
    assert (plain.prompt_override, plain.language) == ("genre", "en")
    assert (own.trigger_word, own.trigger_position, own.prompt_override, own.language) == (
        "mine", "replace", "caption", "de")


def test_empty_defaults_change_nothing() -> None:
    found = folder({}, {"trigger_word": "mine", "trigger_position": "append", "instrumental": True, "lyrics": "la"},
                   genre_ratio=0.3)
    assert build(found, BuildConfig()) == found


def test_position_needs_a_trigger_word() -> None:
    """A later stage that adds the trigger word chooses its position."""
    without, own = build(folder({}, {"trigger_word": "mine"}), BuildConfig(trigger_position="append")).songs
    assert (without.trigger_position, own.trigger_position) == (None, "append")


def test_all_instrumental_keeps_the_lyrics() -> None:
    [song] = build(folder({"lyrics": "la"}), BuildConfig(all_instrumental=True)).songs
    assert (song.instrumental, song.lyrics) == (True, "la")


@pytest.mark.parametrize(("asked", "there", "expected"), [(0.0, 0.3, 0.3), (0.25, 0.3, 0.25), (1.0, 0.0, 1.0),
                                                          (0.333, 0.0, 0.33)])
def test_genre_ratio_is_in_whole_percent(asked: float, there: float, expected: float) -> None:
    assert build(folder({}, genre_ratio=there), BuildConfig(genre_ratio=asked)).genre_ratio == expected


@pytest.mark.parametrize(("name", "value"), [("genre_ratio", 1.5), ("genre_ratio", -0.1),
                                             ("trigger_position", "middle"), ("prompt_override", "both"),
                                             ("language", None)])
def test_invalid_settings_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{name}.*{value}"):
        BuildConfig(**{name: value})


@pytest.mark.parametrize("name", ["trigger_word", "language"])
def test_settings_with_hidden_characters_are_refused(name: str) -> None:
    for sign in ("\0", "\u202e", "\x1b"):
        with pytest.raises(ConfigError, match=rf"{name} holds the .*U\+{ord(sign):04X}.*Type it again"):
            BuildConfig.from_json({name: f"a{sign}b"})


def test_unused_text_is_noticed() -> None:
    found = captioned(folder({}, {}), ["calm\x1b", "caption: b\nbpm: 90\nmood: low"], False)
    assert [song.caption for song in found.songs] == ["", "b"]
    assert "holds the character U+001B" in found.notices[0].reason
    assert ("1.wav", True) in [(notice.name, "mood" in notice.reason) for notice in found.notices]


def test_texts_become_captions_in_order() -> None:
    found = captioned(folder({}, {}, {"caption": "old"}), ["first\nand calm", "", "new"], False)
    assert [song.caption for song in found.songs] == ["first and calm", "", "old"]
    assert captioned(found, ["", "second", "new"], True).songs[2].caption == "new"


def test_texts_may_hold_more_fields() -> None:
    texts = ["caption: calm\nbpm: 90\nkey: A minor\nlyrics:\nla\nla", "<CAPTION>wild</CAPTION><BPM>120",
             "one\r\nline\r\n"]
    first, second, third = captioned(folder({"bpm": 80}, {}, {}), texts, False).songs
    assert (first.caption, first.bpm, first.key, first.lyrics) == ("calm", 80, "A minor", "la\nla")
    assert (second.caption, second.bpm, third.caption) == ("wild", 120, "one line")
    assert captioned(folder({"bpm": 80}, {}, {}), texts, True).songs[0].bpm == 90


def test_short_lines_are_a_caption() -> None:
    [song] = captioned(folder({}), ["piano\nslow\nwarm\nrain\nnight"], False).songs
    assert (song.caption, song.lyrics) == ("piano slow warm rain night", "")


def test_the_rest_of_the_folder_stays() -> None:
    found = replace(folder({}), genre_ratio=0.5)
    assert captioned(found, [""], True) == found


def test_number_of_texts_must_match() -> None:
    with pytest.raises(DatasetError, match="Texts: 1, songs: 2"):
        captioned(folder({}, {}), ["one"], True)


def test_invalid_text_is_named() -> None:
    with pytest.raises(DatasetError, match=r"Text 2 \(of 1\.wav\) line 2 must be beats per minute"):
        captioned(folder({}, {}), ["fine", "caption: x\nbpm: fast"], True)
