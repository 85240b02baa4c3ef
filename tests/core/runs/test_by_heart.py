"""Songs that are learned by heart: what is kept of them, and the sentence about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidestep_core.runs import by_heart, files
from sidestep_core.runs.by_heart import Known, Watched

QUIET = Known(song="b.wav", share=0.02, by_heart=False)


def watched(*known: Known) -> Watched:
    return Watched(step=500, songs=(*known, QUIET))


def known(name: str = "a.wav", repeats: int = 1) -> Known:
    return Known(song=name, share=0.4, by_heart=True, repeats=repeats)


def test_watched_songs_come_back(tmp_path: Path) -> None:
    assert by_heart.read(tmp_path) is None
    by_heart.write(tmp_path, watched(known()))
    assert by_heart.read(tmp_path) == watched(known())


def test_later_songs_are_forgotten(tmp_path: Path) -> None:
    by_heart.write(tmp_path, watched(known()))
    by_heart.forget_after(tmp_path, 500)
    assert by_heart.read(tmp_path) is not None
    by_heart.forget_after(tmp_path, 499)
    assert by_heart.read(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", '{"step": 0, "songs": []}', '{"step": 5, "songs": [{"song": "a"}]}'])
def test_damaged_file_is_left_out(tmp_path: Path, content: str) -> None:
    (tmp_path / files.BY_HEART).write_text(content, encoding="utf-8")
    assert by_heart.read(tmp_path) is None


def test_failure_to_write_goes_on(tmp_path: Path) -> None:
    (tmp_path / files.BY_HEART).mkdir()
    by_heart.write(tmp_path, watched(known()))
    assert by_heart.read(tmp_path) is None


def test_sentence_says_what_to_do() -> None:
    assert watched().sentence(100) == ""
    assert watched(known()).sentence(0) == ("a.wav is being learned by heart. Take fewer steps or epochs, add songs, "
                                           "or lower the rank.")
    assert watched(known(repeats=9), known("c.wav")).sentence(300) == (
        "a.wav and 1 more are being learned by heart. It is repeated 9 times in an epoch: repeat it less. Take fewer "
        "steps or epochs, add songs, or lower the rank. The adapter of step 300 had the best held-out loss.")
