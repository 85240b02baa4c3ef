"""Times of LRC and enhanced LRC: what is sung when, and the text without them."""

from __future__ import annotations

import pytest

from sidestep_core.songs import lyrics as timed

LRC = """[ti:Song]
[ar:Nobody]
[Verse]
[00:10.00]one two
[00:20.50]three
[Chorus]
[00:30.00][01:10.00]four five

[00:50]six"""
ENHANCED = "[00:01.00]<00:01.00>one <00:02.00>two <00:03.00>three\n[00:05.00]<00:05.00>four"


def test_times_are_read() -> None:
    assert [(unit.start, unit.text.strip()) for unit in timed.units(LRC)] == [
        (10.0, "[Verse]\none two"), (20.5, "three"), (30.0, "[Chorus]\nfour five"), (50.0, "six"),
        (70.0, "[Chorus]\nfour five")]
    assert [(unit.start, unit.text) for unit in timed.units(ENHANCED)] == [
        (1.0, "\none"), (2.0, " two"), (3.0, " three"), (5.0, "\nfour")]


def test_plain_text_has_no_times() -> None:
    assert timed.plain(LRC) == "[Verse]\none two\nthree\n[Chorus]\nfour five\n\nsix\n[Chorus]\nfour five"
    assert timed.plain(ENHANCED) == "one two three\nfour"


@pytest.mark.parametrize("lyrics", ["", "la la", "[Verse]\nla\n\n[Chorus]", "[12:00 pm] noon", "at <00:12> sharp"])
def test_other_lyrics_stay(lyrics: str) -> None:
    assert not timed.is_timed(lyrics)
    assert timed.plain(lyrics) == lyrics


def test_offset_moves_lines() -> None:
    assert [unit.start for unit in timed.units("[offset:+500]\n[00:10.00]one\n[00:00.20]zero")] == [0.0, 9.5]


def test_sections_have_their_lines() -> None:
    """A line belongs to the section with its middle, and its time counts from there."""
    first, second = timed.section(LRC, 0.0, 26.0), timed.section(LRC, 26.0, 0.0)
    assert timed.plain(first) == "[Verse]\none two\nthree"
    assert [(unit.start, unit.text.strip()) for unit in timed.units(second)] == [
        (4.0, "[Chorus]\nfour five"), (24.0, "six"), (44.0, "[Chorus]\nfour five")]
    assert timed.section(ENHANCED, 2.0, 4.5) == "[00:00.00]two <00:01.00>three"
    assert timed.plain(timed.section(ENHANCED, 2.0, 4.5)) == "two three"


def test_estimates_follow_line_numbers() -> None:
    found = timed.estimated("[Intro]\n[Verse]\none\ntwo\n\nthree\n[Outro]", 50.0)
    assert [(unit.start, unit.text.strip()) for unit in found] == [
        (0.0, "[Intro]"), (20.0, "[Verse]\none"), (30.0, "two"), (40.0, "three")]
    assert timed.estimated("[Instrumental]", 50.0) == timed.estimated("", 50.0) == []
    assert list(timed.middles([], 50.0)) == []
