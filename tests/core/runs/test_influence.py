"""Influences of songs in a run's folder: verdicts, the file, and the run that it belongs to."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidestep_core.runs import files, influence, record
from sidestep_core.runs.influence import Influence, SongInfluence
from tests.run_folders import write_run

FOUND = Influence(step=500, draws=16, songs=(SongInfluence(song="a.wav", score=0.4, error=0.1),
                                             SongInfluence(song="b.wav", score=-0.2, error=0.1),
                                             SongInfluence(song="c.wav", score=-0.5, error=0.1)))


def test_verdict_needs_certainty() -> None:
    assert [song.verdict for song in FOUND.songs] == ["helps", "neutral", "harms"]
    assert FOUND.named("harms") == ("c.wav",)


def test_influences_come_back(tmp_path: Path) -> None:
    path = tmp_path / files.INFLUENCE
    assert influence.read(path) is None
    influence.write(path, FOUND)
    assert influence.read(path) == FOUND


@pytest.mark.parametrize("content", ["", "[]", '{"step": 5}', '{"step": 5, "draws": 0, "songs": []}'])
def test_damaged_file_is_left_out(tmp_path: Path, content: str) -> None:
    (tmp_path / files.INFLUENCE).write_text(content, encoding="utf-8")
    assert influence.read(tmp_path / files.INFLUENCE) is None


@pytest.mark.parametrize(("step", "kept"), [(500, True), (499, False)])
def test_later_influences_are_forgotten(tmp_path: Path, step: int, kept: bool) -> None:
    influence.write(tmp_path / files.INFLUENCE, FOUND)
    influence.forget_after(tmp_path, step)
    assert (tmp_path / files.INFLUENCE).exists() == kept


def test_run_is_found_beside_and_around(tmp_path: Path) -> None:
    folder = write_run(tmp_path / files.RUNS / "song-0123456789abcdef", files=("song.safetensors",))
    assert record.run_of(tmp_path / "song.safetensors") == folder
    assert record.run_of(folder / "final" / "adapter.safetensors") == folder
    assert record.run_of(tmp_path / "other.safetensors") is None
