"""Parsing of values, and merging of sources."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core.errors import DatasetError
from sidestep_core.io.text import bad_character, mojibake
from sidestep_core.songs.metadata import (
    NAMES,
    Entry,
    Remarks,
    SongMetadata,
    Source,
    field_of,
    merge,
    parse_entries,
    validated,
)


@given(text=st.text().filter(lambda text: not bad_character(text) and not mojibake(text)))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_validation_is_idempotent(text: str) -> None:
    notes: SongMetadata = {"caption": text, "lyrics": text, "language": text, "genre": text,
                           "trigger_word": text, "key": text}
    once = {name: value for name, value in validated(notes).items() if value is not None}
    assert validated(once) == once  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "caption", "lyrics"), [
    (" a\tb\r\nc\u2028d ", "a b c d", "a\tb\nc\u2028d"), ("a\rb", "a b", "a\nb"),
    ("N/A", None, None), ("\n", None, None),
    ("\ufeffa\u200db\u200c", "a\u200db\u200c", "a\u200db\u200c"), ("e\u0301\u200f", "e\u0301\u200f", "e\u0301\u200f"),
])  # fmt: skip
def test_captions_are_paragraphs_and_lyrics_lines(text: str, caption: str | None, lyrics: str | None) -> None:
    assert validated({"caption": text, "lyrics": text}) == {"caption": caption, "lyrics": lyrics}


def test_names_in_any_spelling() -> None:
    assert {field_of(name) for name in ("Time Signature", "time-signature", " SIG ", "timesignature")} == {"signature"}
    assert field_of("mood") is None
    assert set(NAMES.values()) == SongMetadata.__annotations__.keys()


@pytest.mark.parametrize(("weak", "strong", "expected"), [
    ({"caption": "a", "bpm": 90}, {"caption": "b"}, {"caption": "b", "bpm": 90}),
    ({"instrumental": True, "lyrics": "a"}, {"caption": "b"}, {"instrumental": True, "lyrics": "a", "caption": "b"}),
    ({"instrumental": True}, {"lyrics": "b"}, {"lyrics": "b"}),
    ({"instrumental": True}, {"lyrics": "b", "instrumental": True}, {"lyrics": "b", "instrumental": True}),
])  # fmt: skip
def test_stronger_source_wins(weak: SongMetadata, strong: SongMetadata, expected: SongMetadata) -> None:
    assert merge([Source("weak", weak), Source("strong", strong)]) == expected


def test_contradictions_are_remarked() -> None:
    remarks = Remarks()
    entries = [Entry("bpm", 90, "one"), Entry("tempo", "90.1", "two"), Entry("bpm", "n/a", "three"),
               Entry("bpm", 91, "four")]
    assert parse_entries(entries, remarks) == {"bpm": 91}
    assert remarks.sentences == ["four says 91, which counts; before, bpm was 90. Remove one of them."]


@pytest.mark.parametrize(("field", "value", "named"), [
    ("caption", {"a": 1}, "caption must be text, got"), ("caption", True, "caption must be text, got True"),
    ("lyrics", [1], "lyrics must be text, got"), ("bpm", "1e999", "bpm must be beats"),
    ("bpm", -1, "from 1 to 999, got -1"),
    ("instrumental", "perhaps", "true or false, got 'perhaps'"), ("repeats", "-1", "from 1 to 1000, got '-1'"),
    ("repeats", 1001, "from 1 to 1000, got 1001"), ("trigger_position", "top", "got 'top'"),
    ("genre", "\udcff", "not valid Unicode"),
])  # fmt: skip
def test_invalid_values_are_refused(field: Any, value: Any, named: str) -> None:
    with pytest.raises(DatasetError, match=named):
        validated({field: value})


@pytest.mark.parametrize("sign", ["\ufffd", "\0", "\x1b", "\x0b", "\x7f", "\x83", "\x85", "\u202e", "\u202a", "\u2066"])
@pytest.mark.parametrize("name", ["caption", "lyrics", "genre", "key", "signature", "language", "custom_tag", "bpm"])
def test_illegible_text_is_not_used(name: str, sign: str) -> None:
    for text in (f"zxq{sign}", f"{sign}zxq", f"z{sign}xq"):
        remarks = Remarks()
        assert parse_entries([Entry(name, text, "song.json: it")], remarks) == {}
        [sentence] = remarks.sentences
        assert sentence.startswith("song.json: it holds the ")
        assert f"character U+{ord(sign):04X}" in sentence
        assert sentence.endswith("It is not used.")


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize("meant", ["Caf\u00e9", "\u0414\u0440\u0443\u0433", "na\u00efve \u2013 d\u00e9j\u00e0 vu"])
def test_mojibake_is_not_used(meant: str, encoding: str) -> None:
    text = meant.encode().decode(encoding, "replace")
    remarks = Remarks()
    assert parse_entries([Entry("caption", text, "song.mp3: title")], remarks) == {}
    [sentence] = remarks.sentences
    assert "encoding" in sentence
    assert parse_entries([Entry("caption", meant, "song.mp3: title")]) == {"caption": meant}


@pytest.mark.parametrize("text", ["\U0001f469\u200d\U0001f3a4", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
                                  "e\u0301", "\u05e9\u05dc\u05d5\u05dd \u200fa\u200e", "\u96e8\u306e\u591c\u6c49"])
def test_every_script_is_legible(text: str) -> None:
    remarks = Remarks()
    assert parse_entries([Entry("lyrics", text, "a")], remarks) == {"lyrics": text}
    assert remarks == Remarks()
