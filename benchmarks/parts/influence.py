"""Part of the method benchmark: songs that help or harm the held-out loss, found by their influence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sidestep_core.estimate.influence import judge, measure
from sidestep_core.runs.influence import DRAWS
from tests.poisoned import trained_with
from tests.tiny import tiny_checkpoint, write_dataset

SEEDS, SONGS, FRAMES = 20, 12, 40


@dataclass(frozen=True, kw_only=True)
class Found:
    """Seeds in which planted songs rank as they should, and songs that are said to harm."""

    hits: int
    harms: int
    """Poisoned songs among these."""
    alarms: int
    """Others among these."""


def influence_hits(folder: Path, seeds: int = SEEDS, draws: int = DRAWS) -> Found:
    """Count the seeds in which a duplicate of the held-out song ranks first, and a song that teaches the opposite last
    and below zero."""
    checkpoint = tiny_checkpoint(folder / "model")
    dataset = write_dataset(folder / "songs", checkpoint, (FRAMES,) * SONGS)
    hits = harms = alarms = 0
    for seed in range(seeds):
        with trained_with(checkpoint, dataset, seed) as made:
            products = measure(made.training, draws, folder / f"{seed}.part")
        songs = judge([sample.name for sample in made.training.trained_on], products)
        ranks = {song.song: rank for rank, song in enumerate(songs, start=1)}
        hits += made.hit(songs)
        said = [song.song == made.poisoned for song in songs if song.verdict == "harms"]
        harms, alarms = harms + said.count(True), alarms + said.count(False)
        print(f"seed {seed}: duplicate {ranks[made.duplicate]}, poisoned {ranks[made.poisoned]} of {len(songs)}; "
              f"{songs[0].score:+.2f} ({songs[0].error:.2f}) to {songs[-1].score:+.2f} ({songs[-1].error:.2f})",
              flush=True)
    return Found(hits=hits, harms=harms, alarms=alarms)
