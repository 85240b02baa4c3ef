"""Gradient estimate: its cost, its hits on planted modules, and the gain of training only the modules that it selects.

`memory_ratio` and `time_ratio` compare one sample of an estimate with one training step, and with one forward and
backward pass, of the same song, on a mid-size decoder.  `planted_hits`: number of 20 seeds in which the two modules
that the data depends on rank first.  `partial_step_ratio`: the time of a step that adapts only the upper quarter of the
layers, over that of a step that adapts all, the worse of with and without recomputation.  `halves`: rank correlation of
the estimates of two halves of a dataset; their selections overlap more (`same_style_jaccard`) than those of two styles
(`other_style_jaccard`).  `selective`: remaining held-out loss after training with half of the parameters of an adapter
of rank 8 on all modules: on the selected modules, with ranks by score, and with one rank.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.step import GEOMETRY, Work, seconds
from demo.synthetic_model import write_tiny_models
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.estimate import estimate as stage
from sidestep_core.estimate.config import EstimateConfig
from sidestep_core.estimate.result import Estimate
from sidestep_core.estimate.selection import SelectionConfig, apply_selection
from sidestep_core.estimate.statistics import agreement, jaccard
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from sidestep_core.model.decoder import load_decoder
from sidestep_core.progress import Progress
from sidestep_core.training import batches
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.loss import heldout_loss, training_loss
from sidestep_core.training.resolve import resolve
from sidestep_core.training.setup import prepare
from sidestep_core.training.step import Training, optimizer_step
from tests.planting import PAIRS, planted, taught_by
from tests.tiny import TinySource, tiny_checkpoint, write_dataset

CPU = torch.device("cpu")
MIB = 1 << 20
MIDDLE = replace(GEOMETRY, layers=8)
LENGTH = 1500
"""Frames of the mid-size decoder's song: a minute."""
LORA = LoraConfig(dropout=0.0)
ROUNDS = 6
SEEDS, SAMPLES = 20, 96
SONGS, FRAMES = 24, 40
LOUD = 0.1
"""Relative change of the prediction by each planted change that is to be learned; larger than if it is only to be
found, so that it shows after few steps."""
FULL = LoraConfig(rank=8, alpha=8.0, dropout=0.0, target_mlp=True)
HALF = LoraConfig(rank=4, alpha=4.0, dropout=0.0, target_mlp=True)
STEPS = 60
AT_MOST = {"memory_ratio": 1.2, "time_ratio": 1.5, "partial_step_ratio": 0.65}
AT_LEAST = {"planted_hits": 19, "halves": 0.9}


def allocated(work: Work) -> tuple[int, int]:
    """Return the peak of bytes that torch has allocated during the work, and those left at its end."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = work()
    held = most = 0
    assert profile.profiler is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    del kept
    return most, held


def training(checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig, **settings: Any) -> Training:
    """Prepare a training with batch size 1."""
    config = TrainConfig(heldout_songs=0, gradient_accumulation=1, device="cpu", **settings)
    return prepare(checkpoint, dataset, adapter, resolve(config, checkpoint, dataset))


def stepping(train: Training) -> Work:
    """Return work that runs one step after the other."""
    numbers = iter(range(1_000_000))
    return lambda: optimizer_step(train, next(numbers))


def passing(train: Training) -> Work:
    """Return the forward and backward pass of a training step, without the optimizer."""
    objective = train.objective
    (batch,) = batches.batches(train.trained_on, objective.silence_TC, objective.config, 0)

    def work() -> None:
        objective.decoder.train()
        training_loss(objective, batch).weighted_B.sum().backward()
        for parameter in train.adapter.parameters:
            parameter.grad = None

    return work


def cost(folder: Path) -> dict[str, float]:
    """Measure memory and time of an estimate, and of partial steps, on the mid-size decoder."""
    paths = write_tiny_models(folder, MIDDLE, dtype=torch.float32)
    checkpoint = open_checkpoint(paths.model, text_encoder=paths.text_encoder, vae=paths.vae)
    dataset = write_dataset(folder / "dataset", checkpoint, (LENGTH,), tokens=150)
    source = TinySource(folder, [])
    _, loaded = allocated(lambda: load_decoder(checkpoint.model_weights().under("decoder."), torch.float32, CPU))
    few = EstimateConfig(chunk_duration=0, device="cpu", estimate_batches=4)
    sample, _ = allocated(lambda: stage.estimate(source, checkpoint, dataset, few, folder / "few"))
    step, _ = allocated(lambda: stepping(training(checkpoint, dataset, LORA))())
    print(f"beyond the decoder: estimate {(sample - loaded) / MIB:.0f} MiB, training step {(step - loaded) / MIB:.0f} "
          "MiB", flush=True)
    passed = passing(training(checkpoint, dataset, LORA))
    samples, bare, ended = [], [], 0.0

    def report(progress: Progress) -> None:
        # In turn with bare passes: whatever else the machine does slows both.
        nonlocal ended
        if progress.stage == "estimate":
            samples.append(time.perf_counter() - ended)
            bare.append(seconds(passed))
        ended = time.perf_counter()

    config = EstimateConfig(chunk_duration=0, device="cpu", estimate_batches=8)
    stage.estimate(source, checkpoint, dataset, config, folder / "estimates", report=report)
    # Without the first sample, in whose time the decoder is loaded, but with the scores that are made at the end.
    whole, passes = sum(samples[1:]) + time.perf_counter() - ended, sum(bare[1:])
    print(f"{len(samples) - 1} samples {whole:.2f} s, as many passes {passes:.2f} s", flush=True)
    return {"memory_ratio": round((sample - loaded) / (step - loaded), 3), "time_ratio": round(whole / passes, 3),
            "partial_step_ratio": max(partial(checkpoint, dataset, recompute) for recompute in ("on", "off"))}


def best(works: dict[str, Work]) -> dict[str, float]:
    """Return the shortest time of each, measured in turn: other load only ever adds."""
    rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(ROUNDS + 1)][1:]
    return {name: min(times[name] for times in rounds) for name in works}


def partial(checkpoint: Checkpoint, dataset: Dataset, recompute: str) -> float:
    """Return the time of a step that adapts the upper quarter of the layers over that of one that adapts all."""
    upper = range(MIDDLE.layers - MIDDLE.layers // 4, MIDDLE.layers)
    quarter = replace(LORA, module_ranks=("*=0", *(f"layers.{layer}.*=64" for layer in upper)))
    steps: dict[str, Work] = {}
    for name, adapter in (("all", LORA), ("quarter", quarter)):
        made = training(checkpoint, dataset, adapter, gradient_checkpointing=recompute)
        steps[name] = stepping(made)
    times = best(steps)
    print(f"step of all layers {times['all']:.3f} s, of the upper quarter {times['quarter']:.3f} s, recomputing "
          f"{recompute}", flush=True)
    return round(times["quarter"] / times["all"], 3)


@dataclass(frozen=True)
class Planting:
    """Tiny model with songs; the planted modules differ."""

    folder: Path
    checkpoint: Checkpoint
    dataset: Dataset

    def estimate(self, seed: int, dataset: Dataset | None = None, samples: int = SAMPLES) -> Estimate:
        """Measure an estimate, without reusing an earlier one."""
        config = EstimateConfig(seed=seed, estimate_batches=samples, chunk_duration=0, device="cpu")
        with TemporaryDirectory(dir=self.folder) as own:
            return stage.estimate(TinySource(self.folder, []), self.checkpoint, dataset or self.dataset, config,
                                  Path(own))


def hits(planting: Planting) -> Iterator[bool]:
    """Yield for each seed True if the two planted modules rank first."""
    for seed in range(SEEDS):
        pair = PAIRS[seed % len(PAIRS)]
        with taught_by(planted(planting.checkpoint, pair, seed), seed):
            found = [score.module for score in planting.estimate(seed).ranked()]
        yield set(found[:2]) == set(pair)
        if set(found[:2]) != set(pair):
            print(f"seed {seed}: planted in {' and '.join(pair)}, found {', '.join(found[:3])}", flush=True)


def styles(planting: Planting, top_k: int = 6) -> dict[str, float]:
    """Compare two halves of a dataset, and two styles that are planted in five modules each.

    Of more songs than elsewhere: these of random numbers have nothing else in common.
    """
    dataset = write_dataset(planting.folder / "styles", planting.checkpoint, (100,) * 4 * SONGS)
    halves = [replace(dataset, samples=dataset.samples[half::2]) for half in range(2)]
    modules = list(dict.fromkeys(module for pair in PAIRS for module in pair))
    found = []
    for style in range(2):
        with taught_by(planted(planting.checkpoint, modules[style::2], style), style):
            found.append([planting.estimate(style, half, samples=400) for half in halves])

    def overlap(one: Estimate, other: Estimate) -> float:
        return jaccard(*([score.module for score in each.ranked()[:top_k]] for each in (one, other)))

    return {"halves": round(min(agreement(*halves) for halves in found), 3),
            "same_style_jaccard": round(min(overlap(*halves) for halves in found), 3),
            "other_style_jaccard": round(max(overlap(found[0][half], found[1][half]) for half in range(2)), 3)}


def learned(planting: Planting, adapter: AdapterConfig, seed: int) -> float:
    """Return the held-out loss after training over that before."""
    config = TrainConfig(max_steps=STEPS, learning_rate=3e-3, batch_size=4, gradient_accumulation=1, warmup_steps=0,
                         heldout_songs=4, cfg_ratio=0.0, device="cpu", gradient_checkpointing="off", seed=seed)
    made = prepare(planting.checkpoint, planting.dataset, adapter,
                   resolve(config, planting.checkpoint, planting.dataset))
    at = Progress(stage="train", step=0, total=STEPS)
    before = heldout_loss(made.objective, made.passes, at).mean
    for step in range(STEPS):
        optimizer_step(made, step)
    return heldout_loss(made.objective, made.passes, at).mean / before


def selective(planting: Planting) -> dict[str, float]:
    """Return the remaining loss, mean over the pairs: one rank for all, the best modules, and ranks by score, all with
    half of the parameters of rank 8; and rank 8 for all."""
    left: dict[str, list[float]] = {}
    for seed, pair in enumerate(PAIRS):
        with taught_by(planted(planting.checkpoint, pair, seed, LOUD), seed):
            found = planting.estimate(seed)
            half = sum(HALF.rank * sum(score.shape) for score in found.scores) / 1e6
            by_score = SelectionConfig(choose="percentile", percentile=100, rank_by_score=True, min_rank=1)
            adapters: dict[str, AdapterConfig] = {
                "uniform": HALF, "ranks": apply_selection(HALF, found, by_score), "uniform_twice_as_large": FULL,
                "chosen": apply_selection(FULL, found, SelectionConfig(choose="parameters", million_parameters=half)),
            }
            for name, adapter in adapters.items():
                left.setdefault(name, []).append(learned(planting, adapter, seed))
    worst = max(one / other for one, other in zip(left["chosen"], left["uniform"], strict=True))
    return {**{name: round(sum(values) / len(values), 3) for name, values in left.items()},
            "worst_chosen_over_uniform": round(worst, 3)}


def main() -> int:
    torch.manual_seed(0)
    with TemporaryDirectory() as name:
        folder = Path(name)
        found: dict[str, Any] = cost(folder / "middle")
        # The tiny model is slower on several threads.
        torch.set_num_threads(1)
        checkpoint = tiny_checkpoint(folder / "tiny")
        planting = Planting(folder, checkpoint, write_dataset(folder / "songs", checkpoint, (FRAMES,) * SONGS))
        found["planted_hits"] = sum(hits(planting))
        print("planted_hits", found["planted_hits"], flush=True)
        found |= styles(planting)
        found["selective"] = selective(planting)
    for sign, targets in (("<=", AT_MOST), (">=", AT_LEAST)):
        for part, target in targets.items():
            print(f"{part:20} {found[part]:6}  (target {sign} {target})")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
