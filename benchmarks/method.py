"""How well a training learns, and what it leaves alone: one row for each point, with its check.

`turbo_draws`: share of the times at 0.75 and above, where turbo takes five of its eight steps, that an automatic
training on turbo draws.  `guard_gap`: guidance left of what was distilled into a tiny model, with the guards and
without.  `time_variance`: variance of a step's loss due to its draws, stratified times over independent ones;
`planted_variance`: the same of a partly trained model on planted data, of loss and gradient; `recovery_steps`: steps
to recover what is planted, stratified and independent.  `passes`: forward passes per accumulation at batch size 4, with
songs of different words.  `crop_words`: share of right words in the lyrics of crops of sung digits.  `best_regret`: see
_heldout.py.  `memorised`: true if just the song that is repeated 50 times is called learned by heart in every seed, and
none of the same trainings without repeats.  `influence_hits`: seeds in which a duplicate of the held-out
song has the best influence on it, and a song that teaches the opposite the worst, below zero.

Names of parts as arguments, such as `python -m benchmarks.method times best`, run these alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import _heldout, _method
from benchmarks.parts import influence, planted_times, single_songs
from tests.distilled import Music, distil, write_songs
from tests.tiny import tiny_checkpoint, write_dataset

MOST_VARIANCE, MOST_PASSES = 0.7, 1.01
LEAST_HIGH, LEAST_KEPT, LEAST_WORDS = 0.4, 90.0, 0.95
LEAST_HITS = 19

Row = tuple[str, Any, str, bool]
"""Name, figure, sentence, and True if the check holds."""


def turbo(folder: Path) -> Iterator[Row]:
    checkpoint = tiny_checkpoint(folder / "tiny")
    high = _method.turbo_draws(checkpoint, write_dataset(folder / "songs", checkpoint, (40,) * 12))
    yield ("turbo_draws", high["auto"], f"of turbo's times at 0.75 and above, {high['continuous']} if continuous",
           high["auto"] >= LEAST_HIGH)


def guards(folder: Path) -> Iterator[Row]:
    music = Music.of()
    distilled = distil(folder / "distilled", music)
    gaps = dict(_method.guard_gaps(distilled, write_songs(folder / "recorded", distilled, music), music))
    yield ("guard_gap", [gaps["with"], gaps["without"]],
           f"% of the guidance left with and without guards; preserve {gaps['preserve']}, guidance {gaps['guidance']}",
           gaps["with"] >= LEAST_KEPT > gaps["without"])


def times(folder: Path) -> Iterator[Row]:
    music = Music.of()
    distilled = distil(folder / "distilled", music)
    variance = _method.time_variance(distilled, write_songs(folder / "recorded", distilled, music), music)
    yield ("time_variance", variance["loss"],
           f"of a learned model's loss at 4 draws; distilled {variance['distilled']}, "
           f"its gradient {variance['gradient']}", variance["loss"] <= MOST_VARIANCE)
    materials = planted_times.materials(folder / "planted")
    spread = planted_times.variance(*materials)
    yield ("planted_variance", [round(spread.loss, 3), round(spread.gradient, 3)],
           f"of loss (+- {spread.error:.3f}) and gradient at 4 draws, halfway to what is planted; times explain "
           f"{spread.explained:.3f} of the loss's variance", spread.loss <= MOST_VARIANCE)
    found = planted_times.recovery(*materials)
    saved, error = found.saved
    steps = [round(sum(each) / len(each), 1) for each in (found.stratified, found.independent)]
    yield ("recovery_steps", steps, f"steps to recover it, stratified and independent, mean of {planted_times.SEEDS} "
           f"seeds; {saved:.1f} +- {error:.1f} saved", saved > -2 * error)


def passes(folder: Path) -> Iterator[Row]:
    found = _method.passes(tiny_checkpoint(folder / "tiny"), folder / "wordy")
    yield "passes", found, "forward passes per accumulation at batch size 4", found <= MOST_PASSES


def words(folder: Path) -> Iterator[Row]:
    found = _method.crop_words(tiny_checkpoint(folder / "tiny"), folder / "digits")
    yield ("crop_words", found["words"], f"of the words right; {found['lines']} with times for lines only, "
           f"{found['whole']} with the whole song's", found["words"] >= LEAST_WORDS)


def memory(folder: Path) -> Iterator[Row]:
    learned, seeds = single_songs.memorised(folder / "learned"), single_songs.MEMORY_SEEDS
    holds = learned == {"repeated": seeds, "alarms": 0}
    yield ("memorised", holds, f"alarms in {learned['repeated']} of {seeds} seeds if one song is repeated, in "
           f"{learned['alarms']} of {seeds} without", holds)


def songs(folder: Path) -> Iterator[Row]:
    found = influence.influence_hits(folder)
    yield ("influence_hits", found.hits, f"of {influence.SEEDS} seeds; {found.harms} of the poisoned songs are said to "
           f"harm, and {found.alarms} of the others", found.hits >= LEAST_HITS)


def best(folder: Path) -> Iterator[Row]:
    found = _heldout.best_regret(folder)
    sure, lowest, old = (found.of(rule) for rule in (_heldout.SURE, _heldout.LOWEST, _heldout.FIVE_TIMES))
    less = found.less(_heldout.LOWEST, _heldout.SURE)
    yield ("best_regret", [round(sure.mean, 2), round(lowest.mean, 2)],
           f"% of {found.seeds} seeds, with standard error +- {sure.error:.2f} and by the lowest mean, the rule, +- "
           f"{lowest.error:.2f}, less by {less.mean:.2f} +- {less.error:.2f}; lowest at five times {old.mean:.2f} +- "
           f"{old.error:.2f}", lowest.mean <= min(sure.mean, old.mean))


PARTS: dict[str, Callable[[Path], Iterator[Row]]] = {
    part.__name__: part for part in (turbo, guards, times, passes, words, memory, songs, best)}


def main() -> int:
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or list(PARTS)
    if unknown := sorted({*chosen} - PARTS.keys()):
        print(f"There is no part {', '.join(unknown)}; there are {', '.join(PARTS)}.")
        return 2
    found = {}
    for part in chosen:
        with TemporaryDirectory() as folder:
            for name, figure, sentence, holds in PARTS[part](Path(folder)):
                print(f"{name:16} {figure!s:16} {sentence}  ({'holds' if holds else 'MISSED'})", flush=True)
                found[name] = figure
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
