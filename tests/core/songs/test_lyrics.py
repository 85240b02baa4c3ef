"""Lyrics are shared out whole and in order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core.songs.lyrics import divide

SONG = "[Verse 1]\none\ntwo\nthree\nfour\n\n[Chorus]\nfive\nsix\nseven\neight\n\n[Verse 2]\nnine\nten\neleven\ntwelve"

line = st.one_of(st.sampled_from(["", " ", "[Verse]", "[Chorus - loud]", "la la", "[not] a marker"]),
                 st.text(st.characters(blacklist_categories=("Cs",)), max_size=8))


def words(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


@settings(deadline=None)
@given(st.lists(line, max_size=30).map("\n".join), st.lists(st.floats(0.01, 0.99), max_size=6).map(sorted))
def test_no_line_is_lost_or_moved(lyrics: str, cuts: list[float]) -> None:
    texts = divide(lyrics, cuts)
    assert len(texts) == len(cuts) + 1
    assert [line for text in texts for line in words(text)] == words(lyrics)


def test_parts_stay_whole() -> None:
    assert divide(SONG, [0.3, 0.6]) == ["[Verse 1]\none\ntwo\nthree\nfour", "[Chorus]\nfive\nsix\nseven\neight",
                                        "[Verse 2]\nnine\nten\neleven\ntwelve"]
    assert divide(SONG, [0.1]) == ["", SONG]


def test_part_goes_where_its_middle_is() -> None:
    two = "[Verse]\n" + "a\n" * 6 + "[Chorus]\n" + "b\n" * 2
    assert divide(two, [0.37])[0] == ""
    assert divide(two, [0.38])[0].startswith("[Verse]")
    assert "[Chorus]" not in divide(two, [0.87])[0]
    assert "[Chorus]" in divide(two, [0.88])[0]


def test_interludes_take_time() -> None:
    assert divide("[Intro]\n[Verse]\na\nb", [0.5]) == ["[Intro]", "[Verse]\na\nb"]


def test_title_stays_with_first_marker() -> None:
    assert divide("A title\n\n[Verse]\na\nb\n[Chorus]\nc\nd", [0.5]) == ["A title\n\n[Verse]\na\nb", "[Chorus]\nc\nd"]


def test_paragraphs_stay_whole() -> None:
    assert divide("a\nb\n\nc\nd", [0.5]) == ["a\nb", "c\nd"]


def test_one_paragraph_is_divided_by_lines() -> None:
    assert divide("a\nb\nc\nd", [0.5]) == ["a\nb", "c\nd"]


def test_nothing_and_one_section() -> None:
    assert divide("", [0.5]) == ["", ""]
    assert divide(SONG, []) == [SONG]
    assert divide("[Instrumental]", [0.25, 0.75]) == ["", "[Instrumental]", ""]
