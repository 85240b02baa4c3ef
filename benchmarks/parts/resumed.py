"""Runs of the resume benchmark: their settings, adapters, model and songs, and all in which equal runs are equal."""

from __future__ import annotations

from pathlib import Path

import torch

from demo.synthetic_model import write_tiny_models
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.manifest import Dataset, open_dataset
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from sidestep_core.runs.files import BY_HEART
from sidestep_core.training import run_checkpoint
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.resolve import resolve
from tests.tiny import write_conditions, write_dataset

STEPS, SAVE_EVERY = 80, 2
"""So many samples that songs are watched for being learned by heart."""
LORA = LoraConfig(rank=64, alpha=64.0, rank_dropout=0.2)
"""adamw8bit keeps bytes of matrices of 4096 numbers and more, which rank 64 has."""
ADAPTERS: dict[str, AdapterConfig] = {
    "adamw": LORA, "adamw8bit": LORA, "adamw_schedulefree": LORA,
    "adafactor": LokrConfig(linear_dim=4, alpha=8.0, factor=4, use_scalar=True, rank_dropout=0.2),
    "prodigy": LoraConfig(rank=8, alpha=8.0, dora=True),
}
"""Optimizers of the runs, and the adapter of each."""
SETTINGS = {
    "max_steps": STEPS, "save_every": SAVE_EVERY, "heldout_every": 5, "heldout_songs": 1, "learning_rate": 3e-3,
    "gradient_accumulation": 2, "batch_size": 2, "chunk_duration": 1.6, "device": "cpu",
    "gradient_checkpointing": "off", "publish": "best", "early_stopping": 12, "ema_decay": 0.9, "schedule": "auto",
    "loss_weighting": "min_snr_flow", "timestep_mode": "continuous", "timestep_sampling": "stratified",
    "preserve": 0.3, "guidance": 2.0, "cfg_ratio": 0.15, "genre_ratio": 0.3, "context_mode": "mixed",
    "crop_lyrics": "timed", "lyrics_dropout": 0.3, "caption_dropout": 0.3, "lora_plus_ratio": 4.0,
}  # fmt: skip
"""Everything that draws, or has state."""
OWN = {
    "adamw": {}, "adamw8bit": {"timestep_mode": "discrete", "schedule": "cosine_restarts"},
    "adamw_schedulefree": {"ema_decay": 0.0}, "adafactor": {"lora_plus_ratio": 0.0, "timestep_mode": "sampler"},
    "prodigy": {"lora_plus_ratio": 0.0, "schedule": "cosine"},
}  # fmt: skip
"""Settings of the runs with an optimizer that differ from SETTINGS."""


def settings(optimizer: str) -> TrainConfig:
    """Settings of the runs with this optimizer."""
    return TrainConfig.from_json({**SETTINGS, **OWN[optimizer], "optimizer": optimizer})


def write_materials(folder: Path) -> None:
    """Write a checkpoint and a dataset, for all processes."""
    paths = write_tiny_models(folder, dtype=torch.float32)
    checkpoint = open_checkpoint(paths.model, text_encoder=paths.text_encoder, vae=paths.vae)
    dataset = write_dataset(folder / "dataset", checkpoint, (60, 71, 60), captions=("slow", "bright"), genre="genre",
                            codes=True, lyrics="[00:00.20]one\n[00:01.00]two\n[00:02.00]three")
    for optimizer in ADAPTERS:
        write_conditions(dataset, resolve(settings(optimizer), checkpoint, dataset).config)


def open_materials(folder: Path) -> tuple[Checkpoint, Dataset]:
    """Open what `write_materials` has written."""
    model, text_encoder, vae = sorted(folder.glob("*.safetensors"), key=_part)
    return open_checkpoint(model, text_encoder=text_encoder, vae=vae), open_dataset(folder / "dataset")


def _part(path: Path) -> int:
    """Model, text encoder, VAE."""
    return next(number for number, mark in enumerate(("acestep", "qwen", "vae")) if mark in path.name)


def results(folder: Path, adapter: str) -> dict[str, bytes]:
    """Read all in which equal runs are equal: the published adapter, final/, the last checkpoint, and the watched
    songs."""
    run = folder / "run"
    files = [folder / adapter, run / BY_HEART, *(run / "final").glob("*.safetensors"),
             *(file for path in run_checkpoint.checkpoints(run)[-1:] for file in path.glob("*.*"))]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files if file.is_file()}
