"""Words that crops of songs of sung digits are trained with, against those that are sung in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from sidestep_core.dataset import tensor_file
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.flow_matching import FRAMES_PER_SECOND
from sidestep_core.training import batches
from sidestep_core.training.config import CropLyrics, ResolvedConfig
from sidestep_core.training.data import Sample, ensure_conditions, load_samples
from tests.digits import EVERY, sung, write_digits
from tests.tiny import TinySource, write_byte_tokenizer
from tests.training import conditions, settled

CPU = torch.device("cpu")
CROP = 8.0
SONGS, STEPS = 3, 20
WAYS: dict[str, tuple[bool, CropLyrics]] = {"words": (True, "timed"), "lines": (False, "timed"),
                                            "whole": (True, "whole")}
"""Name -> times for words instead of lines, and the setting."""


def crop_words(checkpoint: Checkpoint, folder: Path) -> dict[str, float]:
    """Share of right words among those told and those sung: with times for words, for lines, and of the whole song."""
    source = TinySource(write_byte_tokenizer(folder / "tokenizer"), [])
    found = {}
    for name, (words, mode) in WAYS.items():
        config = settled(chunk_duration=CROP, gradient_accumulation=4, crop_lyrics=mode)
        dataset = write_digits(folder / name, checkpoint, SONGS, words=words)
        ensure_conditions(source, checkpoint, dataset, config, CPU)
        pairs = list(_words(dataset, config))
        right = sum((told & heard).total() for told, heard in pairs)
        found[name] = round(right / sum((told | heard).total() for told, heard in pairs), 3)
    return found


def _words(dataset: Dataset, config: ResolvedConfig) -> Iterator[tuple[Counter[str], Counter[str]]]:
    """Yield for each drawn crop the words that it is told, and those that are sung in it."""
    samples, silence_TC = load_samples(dataset, config)
    known = dict(_texts(dataset, samples, config))
    latents = [dataset.read_latents(info) for info in dataset.samples]
    for step in range(STEPS):
        for batch in batches.batches(samples, silence_TC, config, step):
            for x0_TC, condition_SD in zip(batch.x0_BTC, conditions(batch), strict=True):
                song, start = next((number, int(frame)) for number, frames in enumerate(latents)
                                   for frame in (frames == x0_TC[0]).all(1).nonzero())
                second = start / FRAMES_PER_SECOND
                yield (Counter(known[_key(condition_SD)]),
                       Counter(word for at, word in sung(song) if second <= at + EVERY / 2 < second + CROP))


def _texts(dataset: Dataset, samples: tuple[Sample, ...],
           config: ResolvedConfig) -> Iterator[tuple[tuple[float, ...], list[str]]]:
    for info, sample in zip(dataset.samples, samples, strict=True):
        for prompt in (info.prompt(config.chunk_frames),) if sample.texts is None else sample.texts.prompts(config):
            condition_SD = tensor_file.read(dataset.condition(prompt), "condition", info.name)
            yield _key(condition_SD), prompt.lyrics.split()


def _key(condition_SD: Tensor) -> tuple[float, ...]:
    return tuple(condition_SD.flatten().tolist())
