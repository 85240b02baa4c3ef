"""Prompts of a song of a dataset, whole or cropped."""

from __future__ import annotations

from sidestep_core.model.prompts import Prompt
from tests.tiny import sample_info


def test_prompt_matches_metadata() -> None:
    assert sample_info(3, 100).prompt() == Prompt(caption="song 3", lyrics="la", language="en", bpm=90, key="C major",
                                                  signature="4/4", seconds=4.0)


def test_crop_prompt_states_its_duration() -> None:
    prompt = sample_info(3, 1000).prompt(260)
    assert "duration: 11 seconds" in prompt.caption_text
    assert prompt.lyrics_text == sample_info(3, 1000).prompt().lyrics_text


def test_genre_replaces_the_caption() -> None:
    with_genre = sample_info(3, 100, genre="jazz")
    assert with_genre.prompt(genre=True).caption == "jazz"
    assert [prompt.caption for prompt in with_genre.prompts(50)] == ["song 3", "jazz"]
    assert {prompt.seconds for prompt in with_genre.prompts(50)} == {2.0}


def test_missing_genre_gives_one_prompt() -> None:
    assert [prompt.caption for prompt in sample_info(3, 100).prompts()] == ["song 3"]
