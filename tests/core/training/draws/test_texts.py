"""Crops are told what is sung in them, in few texts per song."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep_core.dataset.captions import INSTRUMENTAL
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.flow_matching import FRAMES_PER_SECOND
from sidestep_core.model.prompts import Prompt
from sidestep_core.progress import Progress
from sidestep_core.training import batches
from sidestep_core.training.config import ResolvedConfig
from sidestep_core.training.data import ensure_conditions, load_samples
from sidestep_core.training.draws.texts import MAX_PASSAGES, Texts, texts_of
from tests.digits import EVERY, SECONDS, sung, write_digits
from tests.tiny import TinySource, sample_info
from tests.training import conditions, settled

CROP = settled(chunk_duration=8.0)
CPU = torch.device("cpu")


def never(prompt: Prompt) -> Any:
    raise AssertionError(prompt)


def texts(config: ResolvedConfig = CROP, lyrics: str = "[00:02.00]one\n[00:10.00]two\n[00:30.00]three",
          grid: int = 1) -> Texts | None:
    info = replace(sample_info(0, SECONDS * FRAMES_PER_SECOND), lyrics=lyrics)
    return texts_of(info, config, config.chunk_frames, grid, {"caption": "warm"}, never)


def test_passages_hold_their_lines() -> None:
    found = texts()
    assert found is not None
    # Middles are at 6, 20 and 32.5 seconds.
    assert [(passage.first, passage.last, passage.lyrics) for passage in found.passages] == [
        (0, 150, "one"), (151, 300, INSTRUMENTAL), (301, 500, "two"), (501, 612, INSTRUMENTAL), (613, 800, "three")]
    assert [passage.nearest(200) for passage in found.passages] == [150, 200, 301, 501, 613]
    assert found.passage(299).lyrics == INSTRUMENTAL


@pytest.mark.parametrize("grid", [1, 5])
def test_long_songs_have_few_texts(grid: int) -> None:
    lyrics = "\n".join(f"[00:{number:05.2f}]line {number}" for number in range(SECONDS))
    found = texts(lyrics=lyrics, grid=grid)
    assert found is not None
    assert len(found.passages) == MAX_PASSAGES
    assert all(passage.first % grid == passage.last % grid == 0 for passage in found.passages)
    assert (found.passages[0].first, found.passages[-1].last) == (0, 800)


@pytest.mark.parametrize(("config", "lyrics", "expected"), [
    (CROP, "one\ntwo", None), (CROP, "[00:02.00]one", 2), (settled(), "[00:02.00]one", None),
    (replace(CROP, crop_lyrics="whole"), "[00:02.00]one", None),
    (replace(CROP, crop_lyrics="estimated"), "one\ntwo\nthree\nfour", 7),
    (replace(CROP, crop_lyrics="estimated"), INSTRUMENTAL, None),
    (replace(CROP, lyrics_dropout=0.1), "one\ntwo", 1), (settled(caption_dropout=0.1), "one\ntwo", 1),
])
def test_only_what_differs_is_kept(config: ResolvedConfig, lyrics: str, expected: int | None) -> None:
    found = texts(replace(config), lyrics) if config.chunk_frames else texts_of(
        replace(sample_info(0, 100), lyrics=lyrics), config, 100, 1, {"caption": "warm"}, never)
    assert (None if found is None else len(found.passages)) == expected


def test_dropout_hides_each_alone() -> None:
    config = replace(CROP, lyrics_dropout=0.3, caption_dropout=0.2)
    asked: list[Prompt] = []
    info = replace(sample_info(0, 1000), lyrics="la")
    found = texts_of(info, config, 200, 1, {"caption": "warm", "genre": "jazz"}, lambda prompt: asked.append(prompt))
    assert found is not None
    for number in range(1000):
        found.drawn(config, number, "caption", 0, found.passages[0])
    assert abs(sum(prompt.lyrics == "" for prompt in asked) / 1000 - 0.3) < 0.06
    assert abs(sum(prompt.caption == "" for prompt in asked) / 1000 - 0.2) < 0.06
    assert abs(sum(prompt.caption == prompt.lyrics == "" for prompt in asked) / 1000 - 0.06) < 0.03
    assert {prompt for prompt in asked} < set(found.prompts(config))
    assert {prompt.caption for prompt in found.prompts(config)} == {"warm", "jazz", ""}


def words_of(dataset: Dataset, samples: Any, steps: int) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the words that each drawn crop is told, and those that are sung in it."""
    known = {tuple(each.texts.open(prompt)[:].flatten().tolist()): prompt.lyrics for each in samples
             for prompt in each.texts.prompts(CROP)}
    by_frame = {sample.name: dataset.read_latents(dataset.samples[number]) for number, sample in enumerate(samples)}
    for step in range(steps):
        for batch in batches.batches(samples, torch.zeros(1000, 64), CROP, step):
            for x0_TC, condition_SD in zip(batch.x0_BTC, conditions(batch), strict=True):
                song, start = next((number, int(where)) for number, frames in enumerate(by_frame.values())
                                   for where in (frames == x0_TC[0]).all(1).nonzero())
                second = start / FRAMES_PER_SECOND
                yield (known[tuple(condition_SD.flatten().tolist())].split(),
                       [word for at, word in sung(song) if second <= at + EVERY / 2 < second + 8.0])


def test_crops_are_told_their_digits(checkpoint: Checkpoint, source: TinySource, tmp_path: Path) -> None:
    dataset = write_digits(tmp_path / "songs", checkpoint, 2, words=True)
    reports: list[Progress] = []
    ensure_conditions(source, checkpoint, dataset, CROP, CPU, reports.append)
    assert not [report.notice for report in reports if report.notice]
    samples, _ = load_samples(dataset, CROP)
    for told, heard in words_of(dataset, samples, 3):
        assert told == heard


def test_estimates_are_reported(checkpoint: Checkpoint, source: TinySource, tmp_path: Path) -> None:
    dataset = write_digits(tmp_path / "songs", checkpoint, 1, words=True)
    untimed = replace(dataset, samples=tuple(replace(sample, lyrics="one\ntwo") for sample in dataset.samples))
    reports: list[Progress] = []
    ensure_conditions(source, checkpoint, untimed, replace(CROP, crop_lyrics="estimated"), CPU, reports.append)
    assert any("lyrics of 1 song(s) have no times" in report.notice for report in reports)
