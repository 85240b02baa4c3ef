"""Several captions of a song: a line or an entry of a list for each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidestep_core.songs.dataset_json import write_dataset_json
from sidestep_core.songs.scan import find_songs
from sidestep_core.songs.sidecar_writer import write_sidecar
from sidestep_core.songs.song import Song
from tests.song_folders import put

LINES = "warm lo-fi\n# a comment\n\n  slow, soft keys \nwarm lo-fi\nrain\n"
EXPECTED = ("warm lo-fi", ("slow, soft keys", "rain"))


def only(folder: Path) -> tuple[str, tuple[str, ...]]:
    song, = find_songs(folder).songs
    return song.caption, song.captions


def test_lines_of_a_file_are_captions(tmp_path: Path) -> None:
    put(tmp_path, one__wav="x")
    (tmp_path / "one.captions.txt").write_text(LINES, encoding="utf-8")
    assert only(tmp_path) == EXPECTED
    assert find_songs(tmp_path).notices == ()


def test_caption_elsewhere_is_one_of_them(tmp_path: Path) -> None:
    put(tmp_path, one__wav="x", one__txt="caption: calm\nbpm: 90\n")
    (tmp_path / "one.captions.txt").write_text(LINES, encoding="utf-8")
    assert only(tmp_path) == ("calm", ("warm lo-fi", "slow, soft keys", "rain"))


@pytest.mark.parametrize("content", [
    {"one.json": {"captions": ["warm lo-fi", "slow, soft keys", "rain"]}},
    {"dataset.json": [{"audio_path": "one.wav", "caption": "warm lo-fi", "captions": ["slow, soft keys", "rain"]}]},
    {"one.json": {"captions": "warm lo-fi\nslow, soft keys\nrain"}},
])
def test_lists_are_captions(tmp_path: Path, content: dict[str, object]) -> None:
    put(tmp_path, one__wav="x")
    for name, values in content.items():
        (tmp_path / name).write_text(json.dumps(values), encoding="utf-8")
    assert only(tmp_path) == EXPECTED


@pytest.mark.parametrize(("values", "problem"), [
    ({"captions": 3.5}, None), ({"captions": ["warm", {"a": 1}]}, "captions must be text"),
    ({"captions": [f"caption {number}" for number in range(101)]}, "has 101 captions, and a song at most 100"),
])
def test_wrong_captions_are_named(tmp_path: Path, values: dict[str, object], problem: str | None) -> None:
    put(tmp_path, one__wav="x", two__wav="x")
    (tmp_path / "one.json").write_text(json.dumps(values), encoding="utf-8")
    problems = [each.reason for each in find_songs(tmp_path).problems]
    assert bool(problems) == (problem is not None)
    assert all(problem in reason for reason in problems if problem)


def test_dataset_json_has_them(tmp_path: Path) -> None:
    put(tmp_path / "songs", one__wav="x")
    (tmp_path / "songs" / "one.captions.txt").write_text(LINES, encoding="utf-8")
    found = find_songs(tmp_path / "songs")
    write_dataset_json(found, tmp_path / "dataset.json", "music")
    assert find_songs(tmp_path / "dataset.json").songs == found.songs


def test_edits_leave_them(tmp_path: Path) -> None:
    put(tmp_path, one__wav="x")
    (tmp_path / "one.captions.txt").write_text(LINES, encoding="utf-8")
    song: Song = find_songs(tmp_path).songs[0]
    write_sidecar(song, {"bpm": 90})
    assert (tmp_path / "one.captions.txt").read_text(encoding="utf-8") == LINES
    assert only(tmp_path) == EXPECTED
