"""Prompts of a song of a dataset, whole or cropped."""

from __future__ import annotations

from sidestep_core.model.prompts import Prompt
from tests.tiny import sample_info


def test_a_songs_prompt_is_what_is_written_about_it() -> None:
    assert sample_info(3, 100).prompt() == Prompt(caption="song 3", lyrics="la", language="en", bpm=90, key="C major",
                                                  signature="4/4", seconds=4.0)


def test_a_windows_prompt_says_its_own_duration_and_all_lyrics() -> None:
    prompt = sample_info(3, 1000).prompt(260)
    assert "duration: 11 seconds" in prompt.caption_text
    assert prompt.lyrics_text == sample_info(3, 1000).prompt().lyrics_text


def test_the_genre_stands_in_place_of_the_caption() -> None:
    with_genre = sample_info(3, 100, genre="jazz")
    assert with_genre.prompt(genre=True).caption == "jazz"
    assert [prompt.caption for prompt in with_genre.prompts(50)] == ["song 3", "jazz"]
    assert {prompt.seconds for prompt in with_genre.prompts(50)} == {2.0}


def test_a_song_without_genre_has_one_prompt() -> None:
    assert [prompt.caption for prompt in sample_info(3, 100).prompts()] == ["song 3"]
