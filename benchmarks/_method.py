"""Parts of the method benchmark: times, batches, guards, and the lyrics of crops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset import tensor_file
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.model import flow_matching
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.flow_matching import FRAMES_PER_SECOND
from sidestep_core.training import batches
from sidestep_core.training.config import CropLyrics, ResolvedConfig, TrainConfig
from sidestep_core.training.data import Sample, ensure_conditions, load_samples
from sidestep_core.training.loss import Objective
from sidestep_core.training.resolve import resolve
from sidestep_core.training.setup import prepare
from sidestep_core.training.step import Training, optimizer_step
from tests.digits import EVERY, sung, write_digits
from tests.distilled import GUIDANCE, Music, guidance_of
from tests.tiny import TinySource, write_byte_tokenizer, write_dataset
from tests.training import conditions, settled

LORA = LoraConfig(rank=8, alpha=8.0, dropout=0.0, target_mlp=True)
CONFIG = TrainConfig(max_steps=60, learning_rate=3e-3, batch_size=8, gradient_accumulation=1, warmup_steps=0,
                     heldout_songs=0, device="cpu", gradient_checkpointing="off")
HIGH = 0.75
"""Time at and above which turbo takes five of its eight steps."""
DRAWS, STEPS = 20_000, 200
STILL: dict[str, Any] = {"learning_rate": 1e-30, "max_grad_norm": 1e9}
"""Settings of a training that does not move, and whose gradients are not clipped."""
CPU = torch.device("cpu")
CROP = 8.0
SONGS, CROP_STEPS = 3, 20
WAYS: dict[str, tuple[bool, CropLyrics]] = {"words": (True, "timed"), "lines": (False, "timed"),
                                            "whole": (True, "whole")}
"""Name -> times for words instead of lines, and the setting."""


def training(checkpoint: Checkpoint, dataset: Dataset, **settings: Any) -> Training:
    """Prepare a training."""
    config = replace(CONFIG, **settings)
    return prepare(checkpoint, dataset, LORA, resolve(config, checkpoint, dataset))


def turbo_draws(checkpoint: Checkpoint, dataset: Dataset) -> dict[str, float]:
    """Share of times at HIGH and above on turbo, of automatic ones and of the model's own distribution."""
    turbo = replace(checkpoint, variant="turbo")
    found = {}
    for mode in ("auto", "continuous"):
        objective: Objective = training(turbo, dataset, timestep_mode=mode).objective
        times = flow_matching.times_at(objective.timesteps, (torch.arange(DRAWS) + 0.5) / DRAWS)
        found[mode] = round(float((times >= HIGH).float().mean()), 3)
    return found


def time_variance(checkpoint: Checkpoint, dataset: Dataset, music: Music) -> dict[str, float]:
    """Variance of a step's loss at four draws, stratified times over independent: of a model that has learned its songs
    by exact formulas, and of the distilled one; and that of the distilled one's gradient."""
    found: dict[str, list[float]] = {}
    for sampling in ("stratified", "independent"):
        made = training(checkpoint, dataset, timestep_mode="continuous", timestep_sampling=sampling, batch_size=4,
                        cfg_ratio=0.0, **STILL)
        exact: list[float] = []

        def of_exact(_: object, inputs: tuple[Any, ...], made: Training = made, exact: list[float] = exact) -> None:
            x_BTC, t_B = inputs[:2]
            (batch,) = batches.batches(made.trained_on, made.objective.silence_TC, made.config, len(exact))
            t = t_B[:, None, None]
            # x = t noise + (1 - t) x0, so noise - x0 = (x - x0) / t.
            velocity_BTC = (x_BTC - batch.x0_BTC) / t
            predicted_BTC = music.velocities(x_BTC, t_B, torch.zeros(len(t_B), dtype=torch.long))[1]
            exact.append(float((velocity_BTC - predicted_BTC).square().mean()))

        made.objective.decoder.register_forward_pre_hook(of_exact)
        spread = variances(made)
        found.setdefault("loss", []).append(float(torch.tensor(exact).var()))
        found.setdefault("distilled", []).append(spread.loss)
        found.setdefault("gradient", []).append(spread.gradient)
    return {name: round(stratified / independent, 3) for name, (stratified, independent) in found.items()}


@dataclass(frozen=True)
class Spread:
    """Variances of the loss of a step and of its gradient, and (time, loss) of every sample."""

    loss: float
    gradient: float
    samples: list[tuple[float, float]]


def variances(still: Training) -> Spread:
    """Measure how much steps of a training that does not move differ."""
    gradients: list[Tensor] = []
    still.optimizer.register_step_pre_hook(lambda *_: gradients.append(torch.cat(
        [parameter.grad.flatten() for parameter in still.adapter.parameters if parameter.grad is not None])))
    steps = [optimizer_step(still, step) for step in range(STEPS)]
    spread = torch.stack(gradients)
    return Spread(loss=float(torch.tensor([step.numbers["loss"] for step in steps]).var()),
                  gradient=float((spread - spread.mean(0)).square().sum()),
                  samples=[sample for step in steps for sample in step.samples])


def passes(checkpoint: Checkpoint, folder: Path) -> float:
    """Forward passes per accumulation at batch size 4, of songs of different lengths and words in crops."""
    songs = write_dataset(folder, checkpoint, tuple(range(60, 84)), tokens=tuple(range(5, 29)), windows=(25,))
    made = training(checkpoint, songs, batch_size=4, chunk_duration=1.0)
    taken = [sum(1 for _ in batches.batches(made.trained_on, made.objective.silence_TC, made.config, step))
             for step in range(STEPS)]
    return sum(taken) / STEPS


def guard_gaps(checkpoint: Checkpoint, songs: Dataset, music: Music) -> Iterator[tuple[str, float]]:
    """Yield for each guard the guidance that is left of what was distilled, in percent: what a caption changes."""
    guards = {"without": {}, "preserve": {"preserve": 0.5}, "guidance": {"guidance": GUIDANCE},
              "with": {"preserve": 0.5, "guidance": GUIDANCE}}
    for name, settings in guards.items():
        made = training(checkpoint, songs, **settings)
        before = guidance_of(made.objective, music)
        for step in range(made.total_steps):
            optimizer_step(made, step)
        yield name, round(100 * guidance_of(made.objective, music) / before, 1)


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
    for step in range(CROP_STEPS):
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
