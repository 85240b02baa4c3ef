"""How well a training learns, and what it leaves alone: one row for each point, with its check.

`turbo_draws`: share of the times at 0.75 and above, where turbo takes five of its eight steps, that an automatic
training on turbo draws.  `guard_gap`: guidance left of what was distilled into a tiny model, with the guards and
without.  `time_variance`: variance of a step's loss due to its draws, stratified times over independent ones.
`passes`: forward passes per accumulation at batch size 4, with songs of different words.  `crop_words`: share of right
words in the lyrics of crops of sung digits.  `best_regret`: see _heldout.py.  `memorised`: seeds in which just the song
that is repeated 50 times is called learned by heart, and those of the same trainings without repeats in which any is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import _heldout, _method
from benchmarks.parts import single_songs
from tests.distilled import Music, distil, write_songs
from tests.tiny import tiny_checkpoint, write_dataset

MOST_VARIANCE, MOST_PASSES = 0.7, 1.01
LEAST_HIGH, LEAST_KEPT, LEAST_WORDS = 0.4, 90.0, 0.95

Row = tuple[str, Any, str, bool]
"""Name, figure, sentence, and True if the check holds."""


def rows(folder: Path) -> Iterator[Row]:
    """Measure point after point."""
    checkpoint = tiny_checkpoint(folder / "tiny")
    songs = write_dataset(folder / "songs", checkpoint, (40,) * 12)
    high = _method.turbo_draws(checkpoint, songs)
    yield ("turbo_draws", high["auto"], f"of turbo's times at 0.75 and above, {high['continuous']} if continuous",
           high["auto"] >= LEAST_HIGH)
    music = Music.of()
    distilled = distil(folder / "distilled", music)
    recorded = write_songs(folder / "recorded", distilled, music)
    gaps = dict(_method.guard_gaps(distilled, recorded, music))
    yield ("guard_gap", [gaps["with"], gaps["without"]],
           f"% of the guidance left with and without guards; preserve {gaps['preserve']}, guidance {gaps['guidance']}",
           gaps["with"] >= LEAST_KEPT > gaps["without"])
    variance = _method.time_variance(distilled, recorded, music)
    yield ("time_variance", variance["loss"],
           f"of a learned model's loss at 4 draws; distilled {variance['distilled']}, "
           f"its gradient {variance['gradient']}", variance["loss"] <= MOST_VARIANCE)
    passes = _method.passes(checkpoint, folder / "wordy")
    yield "passes", passes, "forward passes per accumulation at batch size 4", passes <= MOST_PASSES
    words = _method.crop_words(checkpoint, folder / "digits")
    yield ("crop_words", words["words"], f"of the words right; {words['lines']} with times for lines only, "
           f"{words['whole']} with the whole song's", words["words"] >= LEAST_WORDS)
    learned = single_songs.memorised(folder / "learned")
    yield ("memorised", [learned["repeated"], learned["alarms"]],
           f"of {single_songs.MEMORY_SEEDS} seeds: alarms if one song is repeated, and without",
           learned == {"repeated": single_songs.MEMORY_SEEDS, "alarms": 0})
    regret = [round(each, 2) for each in _heldout.best_regret()]
    yield "best_regret", regret, "% with and without error bar", regret[0] <= regret[1]


def main() -> int:
    torch.set_num_threads(1)
    found = {}
    with TemporaryDirectory() as folder:
        for name, figure, sentence, holds in rows(Path(folder)):
            print(f"{name:15} {figure!s:16} {sentence}  ({'holds' if holds else 'MISSED'})", flush=True)
            found[name] = figure
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
