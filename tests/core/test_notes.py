"""What values mean, and what becomes of two sources that differ."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core.errors import DatasetError
from sidestep_core.notes import NAMES, Entry, Notes, field_of, merged, notes_from, settled


@given(text=st.text())
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_what_is_kept_is_kept_as_it_is(text: str) -> None:
    notes: Notes = {"caption": text, "lyrics": text, "language": text, "genre": text, "tag": text, "key": text}
    once = {name: value for name, value in settled(notes).items() if value is not None}
    assert settled(once) == once  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "caption", "lyrics"), [
    (" a\tb\r\nc\u2028d ", "a b c d", "a\tb\nc\u2028d"), ("a\rb", "a b", "a\nb"),
    ("N/A", None, None), ("\n", None, None),
    ("\ufeffa\x1b", "\ufeffa\x1b", "\ufeffa\x1b"),
])  # fmt: skip
def test_captions_are_paragraphs_and_lyrics_lines(text: str, caption: str | None, lyrics: str | None) -> None:
    assert settled({"caption": text, "lyrics": text}) == {"caption": caption, "lyrics": lyrics}


def test_names_are_known_however_they_are_spelled() -> None:
    assert {field_of(name) for name in ("Time Signature", "time-signature", " SIG ", "timesignature")} == {"signature"}
    assert field_of("mood") is None
    assert set(NAMES.values()) == Notes.__annotations__.keys()


@pytest.mark.parametrize(("weak", "strong", "expected"), [
    ({"caption": "a", "bpm": 90}, {"caption": "b"}, {"caption": "b", "bpm": 90}),
    ({"instrumental": True, "lyrics": "a"}, {"caption": "b"}, {"instrumental": True, "lyrics": "a", "caption": "b"}),
    ({"instrumental": True}, {"lyrics": "b"}, {"lyrics": "b"}),
    ({"instrumental": True}, {"lyrics": "b", "instrumental": True}, {"lyrics": "b", "instrumental": True}),
])  # fmt: skip
def test_the_stronger_counts(weak: Notes, strong: Notes, expected: Notes) -> None:
    assert merged(weak, strong) == expected


def test_a_value_said_twice_is_remarked_only_where_it_differs() -> None:
    remarks: list[str] = []
    entries = [Entry("bpm", 90, "one"), Entry("tempo", "90.1", "two"), Entry("bpm", "n/a", "three"),
               Entry("bpm", 91, "four")]
    assert notes_from(entries, remarks) == {"bpm": 91}
    assert remarks == ["four says 91, which counts; before, bpm was 90. Remove one of them."]


@pytest.mark.parametrize(("field", "value", "named"), [
    ("caption", {"a": 1}, "caption must be text, got"), ("caption", True, "caption must be text, got True"),
    ("lyrics", [1], "lyrics must be text, got"), ("bpm", "1e999", "bpm must be beats"),
    ("bpm", -1, "from 1 to 999, got -1"),
    ("instrumental", "perhaps", "true or false, got 'perhaps'"), ("repeats", "-1", "from 1 to 1000, got '-1'"),
    ("repeats", 1001, "from 1 to 1000, got 1001"), ("tag_position", "top", "got 'top'"),
    ("genre", "\udcff", "not valid Unicode"),
])  # fmt: skip
def test_what_cannot_be_is_refused_by_value(field: Any, value: Any, named: str) -> None:
    with pytest.raises(DatasetError, match=named):
        settled({field: value})
