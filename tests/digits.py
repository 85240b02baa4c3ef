"""Songs of sung digits: what is sung in every second is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sidestep_core import rng
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.flow_matching import FRAMES_PER_SECOND
from tests.tiny import write_dataset

SECONDS, EVERY = 40, 1.0
"""Length of a song, and the time from one digit to the next."""


def sung(song: int) -> list[tuple[float, str]]:
    """Start and word of every digit of a song; each is sung until the next."""
    random = rng.generator("digits", song)
    digits = (int(random.initial_seed()) * 2654435761 >> shift & 15 for shift in range(int(SECONDS / EVERY)))
    return [(number * EVERY, f"{digit % 10}") for number, digit in enumerate(digits)]


def lrc(song: int, *, words: bool) -> str:
    """Lyrics of a song in lines of four digits, with a time for each line or word."""
    lines = []
    pairs = sung(song)
    for first in range(0, len(pairs), 4):
        line = pairs[first:first + 4]
        text = "".join(f"<00:{start:05.2f}>{word} " for start, word in line) if words else " ".join(
            word for _, word in line)
        lines.append(f"[00:{line[0][0]:05.2f}]{text}")
    return "\n".join(lines)


def write_digits(folder: Path, checkpoint: Checkpoint, songs: int, *, words: bool) -> Dataset:
    """A dataset of such songs, whose conditions for crops are missing."""
    dataset = write_dataset(folder, checkpoint, (SECONDS * FRAMES_PER_SECOND,) * songs)
    return replace(dataset, samples=tuple(replace(sample, lyrics=lrc(number, words=words))
                                          for number, sample in enumerate(dataset.samples)))
