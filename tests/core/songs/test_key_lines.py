"""Keys are found however people mark them, and a sung line is none."""

from __future__ import annotations

import pytest

from sidestep_core.songs.key_lines import KeyLine, key_line


@pytest.mark.parametrize("line", [
    "caption: calm", "Caption:calm", "- caption: calm", "1. caption: calm", "**caption:** calm", "**caption**: calm",
    "\u200bcaption: calm", "\ufeffcaption: calm", "\U0001f3b5 Caption: calm", "\U0001f3b5\ufe0fCaption: calm",
    "\u2705 **Caption:** calm", "caption\uff1acalm", "caption = calm", "caption=calm", "caption\tcalm",
    "Caption - calm", "Caption \u2013 calm", "caption\u00a0: calm"])
def test_marked_keys_are_found(line: str) -> None:
    found = key_line(line)
    assert found is not None
    assert (found.name.lower(), found.value, found.heading) == ("caption", "calm", False)


@pytest.mark.parametrize("line", ["# Caption", "## **Caption**:", "**Caption**", "[Caption]", "[caption] "])
def test_headings_are_found(line: str) -> None:
    assert key_line(line) == KeyLine(line.strip(" #*[]:"), "", heading=True)


@pytest.mark.parametrize("line", [
    "[Verse]", "[Chorus - loud]", "love = pain", "Key - change", "Genre - bending", "you\tand me", "caption", "calm",
    "(caption - calm)", "captions - calm", "a caption - calm", "tempo-driven beat", "language-free singing", "=", ""])
def test_sung_lines_are_none(line: str) -> None:
    assert key_line(line) is None
