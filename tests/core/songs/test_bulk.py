"""Bulk edits change the songs that they fit, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidestep_core.errors import ConfigError
from sidestep_core.songs.bulk import BulkEdit, changed, changes
from sidestep_core.songs.song import Song


def song(**values: str) -> Song:
    return Song(path=Path("/a.wav"), name="a.wav", **values)  # type: ignore[arg-type]


def test_replacement_reaches_caption_and_lyrics() -> None:
    edit = BulkEdit(action="replace", find="Rain", text="Snow")
    assert changed(song(caption="Rain, rain", lyrics="[Verse]\nRain"), edit) == {
        "caption": "Snow, rain", "lyrics": "[Verse]\nSnow"}
    assert changed(song(caption="rain"), edit) == {}
    assert changed(song(caption="Rain"), BulkEdit(action="replace", find="Rain", text="Rain")) == {}
    assert changed(song(caption="a Rain"), BulkEdit(action="replace", find="Rain", text="")) == {"caption": "a"}


def test_only_changed_songs_are_counted() -> None:
    songs = [song(genre="lo-fi"), song(), song(genre="jazz", trigger_word="x")]
    assert dict(changes(songs, BulkEdit(action="genre", text=" lo-fi "))) == {
        1: {"genre": "lo-fi"}, 2: {"genre": "lo-fi"}}
    assert dict(changes(songs, BulkEdit(action="trigger_word", text="x"))) == {
        0: {"trigger_word": "x"}, 1: {"trigger_word": "x"}}
    assert dict(changes(songs, BulkEdit(action="genre", text=""))) == {0: {"genre": ""}, 2: {"genre": ""}}


@pytest.mark.parametrize(("values", "wrong"), [
    ({"action": "replace", "text": "a"}, "text to find"), ({"action": "genre", "text": "a\nb"}, "single line"),
    ({"action": "genre", "text": "a" * 1001}, "1001 characters"), ({"action": "delete", "text": ""}, "action")])
def test_wrong_edit_is_refused(values: dict[str, str], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        BulkEdit(**values)  # type: ignore[arg-type]
