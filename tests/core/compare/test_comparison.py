"""Comparisons on the disk: written whole, read back equal, votes and the chosen take kept."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from sidestep_core.compare import comparison
from sidestep_core.compare.comparison import Comparison, Take
from sidestep_core.compare.strengths import parse_strengths
from sidestep_core.errors import ConfigError

MADE = Comparison(
    id=comparison.new_id(), created=1.5, prompt="calm piano", lyrics="", seed=7, steps=8, cfg=1.0, sampler="euler",
    scheduler="simple", denoise=1.0, seconds=5.0,
    takes=(Take(name="base", lufs=-14.2), Take(name="mine", strength=0.7, adapter_file="mine.safetensors", lufs=None)))


def written(root: Path) -> Comparison:
    comparison.write(root, MADE, [b"first", b"second"])
    found = comparison.read(root, MADE.id)
    assert found is not None
    return found


def test_written_comparison_reads_back_equal(tmp_path: Path) -> None:
    assert written(tmp_path) == MADE
    file = comparison.take_file(tmp_path, MADE.id, 2)
    assert file is not None
    assert file.read_bytes() == b"second"


def test_votes_and_choice_survive(tmp_path: Path) -> None:
    found = written(tmp_path).voted(2).voted(1).with_kept(2, "mine-2.safetensors")
    comparison.update(tmp_path, found)
    again = comparison.read(tmp_path, MADE.id)
    assert again == found
    assert [vote.take for vote in found.votes] == [2, 1]
    assert (found.kept, found.takes[1].adapter_file) == (2, "mine-2.safetensors")


@pytest.mark.parametrize("number", [0, 3, -1])
def test_unknown_take_is_refused(number: int) -> None:
    with pytest.raises(ConfigError, match=f"no take {number}"):
        MADE.voted(number)
    with pytest.raises(ConfigError, match=f"no take {number}"):
        MADE.with_kept(number, "")


@pytest.mark.parametrize("name", ["..", "../20260101-000000-abcd", "20260101-000000-abcd", "20260101-000000-abcd/.."])
def test_only_ids_are_looked_up(tmp_path: Path, name: str) -> None:
    written(tmp_path)
    assert comparison.read(tmp_path / "inner", name) is None
    assert comparison.take_file(tmp_path / "inner", name, 1) is None


def test_half_written_comparison_is_absent(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        comparison.write(tmp_path, MADE, [b"first", None])  # type: ignore[list-item]
    assert comparison.names(tmp_path) == []
    assert comparison.read(tmp_path, MADE.id) is None


def test_newest_comparison_comes_first(tmp_path: Path) -> None:
    now = time.time()
    ids = [comparison.new_id(now - age) for age in (0, 90_000, 10)]
    for name in ids:
        comparison.write(tmp_path, replace(MADE, id=name), [])
    assert comparison.names(tmp_path) == [ids[0], ids[2], ids[1]]


@pytest.mark.parametrize(("text", "strengths"), [
    ("0.7, 1.0", (0.7, 1.0)), ("1", (1.0,)), ("-1;0.5 2", (-1.0, 0.5, 2.0))])
def test_strengths_are_read(text: str, strengths: tuple[float, ...]) -> None:
    assert parse_strengths(text, "strengths") == strengths


@pytest.mark.parametrize(("text", "message"), [
    ("", "is empty"), (" , ", "is empty"), ("0.7, strong", "'strong'"), ("nan", "between -10 and 10"),
    ("11", "between"), ("0", "leave out 0"), ("1, 1.0", "has 1 twice")])
def test_wrong_strengths_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_strengths(text, "strengths")
