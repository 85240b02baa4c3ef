"""Growth of a training with the number of songs and with its length.

`growth_mb`: how much more memory a process has had at its peak that trains on 10 000 songs than one that trains on 10
of the same length.  `start_seconds`: processor time from the manifest of 10 000 songs to the first step, beside that
for 10.  `step_ratio`: the larger of two ratios of the time per step, 10 000 songs to 10 and step 5000 to step 10, each
the median of steps: in turn, of a model whose step takes a tenth of a second, with songs that are read for the first
time; and in one long run of a tiny model.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch

import run
from benchmarks.preprocess import peak_memory
from demo.synthetic_model import Geometry, write_tiny_models
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset import tensor_file
from sidestep_core.dataset.manifest import Dataset, open_dataset, write_manifest
from sidestep_core.io import atomic
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from sidestep_core.model.standalone import OfficialModels
from sidestep_core.progress import Progress
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.data import ensure_conditions
from sidestep_core.training.resolve import resolve
from sidestep_core.training.setup import prepare
from sidestep_core.training.step import Training, optimizer_step
from sidestep_core.training.train import identity, train
from tests.tiny import sample_info, tiny_checkpoint

FEW, MANY = 10, 10_000
FRAMES, TOKENS = 250, 40
"""Length of a song and of its condition; the growth is that of everything but the tensors."""
LENGTH, MEASURED, TURNS = 5000, 100, 50
"""Steps of the long run, and those that are compared: after the first ten, at its end, and in turn."""
GEOMETRY = Geometry(layers=6, hidden=256, heads=4, kv_heads=2, mlp=768)
ADAPTER = LoraConfig(rank=8, alpha=16.0)
CONFIG = TrainConfig(max_steps=LENGTH, gradient_accumulation=1, heldout_every=1000, save_every=100_000, save_minutes=0,
                     device="cpu", precision="fp32")
TARGETS = {"growth_mb": 100.0, "step_ratio": 1.05, "start_seconds": 2.0}


def write_songs(folder: Path, checkpoint: Checkpoint, count: int) -> Dataset:
    """Write a dataset of so many songs with the project's own writer, but without waiting for the disk."""
    infos = tuple(replace(sample_info(number, FRAMES), lyrics=f"song {number}\n" + 60 * "la la la la la\n")
                  for number in range(count))
    dataset = Dataset(folder=folder, checkpoint=checkpoint.fingerprint, style="comfyui", trigger_word="", samples=infos)
    latents_TC, condition_SD = torch.randn(FRAMES, 64), torch.randn(TOKENS, 64)
    with mock.patch.object(atomic, "_flush_to_disk"), mock.patch.object(atomic, "_flush_folder"):
        for number, info in enumerate(infos):
            tensor_file.write(dataset.latents(info), "latents", latents_TC + number)
            tensor_file.write(dataset.condition(info.prompt()), "condition", condition_SD + number)
        tensor_file.write(dataset.silence, "silence", latents_TC)
        write_manifest(dataset)
    return dataset


def opened(root: Path) -> Checkpoint:
    """Checkpoint of the timed steps."""
    return open_checkpoint(root / "acestep_v1.5_tiny_turbo.safetensors",
                           text_encoder=root / "qwen_tiny_ace15.safetensors",
                           vae=root / "ace_1.5_tiny_vae.safetensors")


def prepared(checkpoint: Checkpoint, folder: Path) -> Training:
    """Everything that a training does before its first step."""
    dataset = open_dataset(folder)
    identity(checkpoint, dataset, ADAPTER, CONFIG)
    settings = resolve(CONFIG, checkpoint, dataset)
    ensure_conditions(OfficialModels(folder), checkpoint, dataset, settings.config, settings.device)
    return prepare(checkpoint, dataset, ADAPTER, settings)


def print_child(folder: Path) -> None:
    """Train a few steps, and print peak memory and start: the work of each process."""
    torch.set_num_threads(1)
    checkpoint = opened(folder.parent)
    optimizer_step(prepared(checkpoint, folder.parent / str(FEW)), 0)
    begun = time.process_time()
    training = prepared(checkpoint, folder)
    seconds = time.process_time() - begun
    for step in range(TURNS):
        optimizer_step(training, step)
    print(json.dumps([peak_memory(), seconds]))


def measure_child(folder: Path) -> tuple[float, float]:
    command = [*run.launch(Path(sys.executable), "benchmarks.scaling"), folder]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=run.bootstrap.ROOT)
    peak, seconds = json.loads(output.stdout)
    return peak, seconds


def songs_ratio(checkpoint: Checkpoint, root: Path) -> float:
    """Time per step with many songs over that with few, in turn in one process."""
    trainings = [prepared(checkpoint, root / str(count)) for count in (FEW, MANY)]

    def seconds(training: Training, step: int) -> float:
        begun = time.process_time()
        optimizer_step(training, step)
        return time.process_time() - begun

    rows = [[seconds(training, step) for training in trainings] for step in range(TURNS)][5:]
    few, many = (statistics.median(column) for column in zip(*rows, strict=True))
    return many / few


def length_ratio(root: Path) -> float:
    """Time per step at the end of a long run over that at its start, by the run's own reports."""
    checkpoint = tiny_checkpoint(root / "tiny")
    dataset = write_songs(root / "short", checkpoint, FEW)
    times: list[float] = []

    def report(progress: Progress) -> None:
        if "loss" in progress.metrics:
            times.append(time.process_time())

    train(OfficialModels(root), checkpoint, dataset, ADAPTER, CONFIG, root / "run",
          root / "a.safetensors", report=report)
    steps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    return statistics.median(steps[-MEASURED:]) / statistics.median(steps[10:10 + MEASURED])


def measure() -> dict[str, float]:
    """The figures, by name."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_tiny_models(root, GEOMETRY)
        checkpoint = opened(root)
        for count in (FEW, MANY):
            write_songs(root / str(count), checkpoint, count)
        (few, start_few), (many, start_many) = (measure_child(root / str(count)) for count in (FEW, MANY))
        by_songs, by_length = songs_ratio(checkpoint, root), length_ratio(root)
    return {"growth_mb": round(many - few, 1), "peak_mb": round(many, 1), "start_seconds": round(start_many, 2),
            "start_seconds_few": round(start_few, 2), "songs_ratio": round(by_songs, 3),
            "length_ratio": round(by_length, 3), "step_ratio": round(max(by_songs, by_length), 3)}


def main() -> int:
    if len(sys.argv) > 1:
        print_child(Path(sys.argv[1]))
        return 0
    found = measure()
    for name, target in TARGETS.items():
        print(f"{name:<14} {found[name]:8.3f}  (target <= {target:g})")
    print(json.dumps(found))
    return int(any(found[name] > target for name, target in TARGETS.items()))


if __name__ == "__main__":
    sys.exit(main())
