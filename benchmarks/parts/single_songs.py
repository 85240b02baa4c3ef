"""Parts of the method benchmark that are about single songs: those that are learned by heart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.progress import Progress
from sidestep_core.runs.by_heart import Known
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.heldout.watch import judge
from sidestep_core.training.loss import falls
from sidestep_core.training.resolve import resolve
from sidestep_core.training.setup import prepare
from sidestep_core.training.step import optimizer_step
from tests.distilled import Music, distil, write_songs

LORA = LoraConfig(rank=8, alpha=8.0, dropout=0.0, target_mlp=True)
FRAMES, SPREAD, SONGS, REPEATS = 2, 1.0, 20, 50
"""Songs so short, and so unlike each other, that a tiny adapter can remember one."""
WATCHED = TrainConfig(max_steps=60, batch_size=8, gradient_accumulation=1, heldout_songs=4, learning_rate=5e-3,
                      warmup_steps=0, schedule="constant", timestep_mode="continuous", cfg_ratio=0.0, device="cpu",
                      gradient_checkpointing="off")
MEMORY_SEEDS = 3


def memorised(folder: Path) -> dict[str, int]:
    """Count the seeds in which exactly the song that is repeated is learned by heart, and those of the same training
    without repeats in which any is."""
    music = Music.of(frames=FRAMES, spread=SPREAD)
    checkpoint = distil(folder / "model", music, guidance=1.0)
    dataset = write_songs(folder / "songs", checkpoint, music, count=SONGS)
    found = {"repeated": 0, "alarms": 0}
    for seed in range(MEMORY_SEEDS):
        config = replace(WATCHED, seed=seed)
        control = _watched(checkpoint, dataset, config)
        song = control[-1].song
        repeated = replace(dataset, samples=tuple(replace(info, repeats=REPEATS if info.name == song else 1)
                                                  for info in dataset.samples))
        known = _watched(checkpoint, repeated, config)
        print(f"seed {seed}: {song} {known[0].share:.2f} if repeated, then {known[1].song} {known[1].share:.2f}; "
              f"control {control[0].share:.2f}", flush=True)
        found["repeated"] += [one.song for one in known if one.by_heart] == [song]
        found["alarms"] += any(one.by_heart for one in control)
    return found


def _watched(checkpoint: Checkpoint, dataset: Dataset, config: TrainConfig) -> tuple[Known, ...]:
    """Train, and judge the watched songs at the end."""
    training = prepare(checkpoint, dataset, LORA, resolve(config, checkpoint, dataset))
    for step in range(training.total_steps):
        optimizer_step(training, step)
    assert training.watch is not None
    at = Progress(stage="train", step=training.total_steps, total=training.total_steps)
    trained, heldout = (falls(training.objective, passes, at)
                        for passes in (training.watch.trained, training.watch.heldout))
    return judge(training.watch, trained, heldout)
