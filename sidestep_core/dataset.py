"""A preprocessed dataset: its folder, its samples in memory, and which of them each training step visits.

On disk: `manifest.json`, one safetensors file per song (latents [T, 64], condition [S, D]), and the latent of silence.
Shapes: B batch, T latent frame, C channel, S condition token, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import flow, storage
from .config import TrainConfig
from .errors import DatasetError

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class SampleInfo:
    """One song of a dataset as its manifest lists it."""

    name: str
    file: str
    """Name of the safetensors file in the dataset's folder; content-addressed."""
    frames: int
    audio: str
    """SHA-256 of the audio file."""
    heard: str
    """Key of the latents: audio, settings and checkpoint, without the words."""
    size: int
    modified: int
    """Size in bytes and modification time in nanoseconds of the audio file: while both stay, it is not read again."""

    @property
    def seconds(self) -> float:
        return self.frames / flow.FRAMES_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Handle of a preprocessed dataset: paths and small facts, no tensors."""

    folder: Path
    checkpoint: str
    """Fingerprint of the checkpoint whose encoders made it."""
    style: str
    tag: str
    samples: tuple[SampleInfo, ...]

    @property
    def fingerprint(self) -> str:
        """Changes with any change of audio, text, settings or checkpoint; not with the place on the disk."""
        # Names too: which song is held out, and the order of visits, depend on them.
        songs = sorted((sample.name, sample.file) for sample in self.samples)
        return storage.fingerprint(self.checkpoint, self.style, songs)

    @property
    def seconds(self) -> float:
        return sum(sample.seconds for sample in self.samples)

    def is_whole(self) -> bool:
        """Whether every file of it is there."""
        return self.silence.is_file() and all((self.folder / sample.file).is_file() for sample in self.samples)

    @property
    def silence(self) -> Path:
        """File of the silence latent, as long as the longest song; by its length, so that no other dataset's is it."""
        return self.folder / f"silence-{max((sample.frames for sample in self.samples), default=0)}.safetensors"


def write_manifest(dataset: Dataset) -> None:
    """Make the dataset's folder describe it; the last thing preprocessing does."""
    storage.write_json(dataset.folder / MANIFEST, {
        "format": FORMAT, "checkpoint": dataset.checkpoint, "style": dataset.style, "tag": dataset.tag,
        "samples": [asdict(sample) for sample in dataset.samples],
    })


def open_dataset(folder: Path) -> Dataset:
    """The dataset in a folder.  DatasetError when there is none, or it was made by another version."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DatasetError(f"{folder} holds no preprocessed dataset: {MANIFEST} is missing. Run PreprocessAudioFolder.")
    try:
        manifest = storage.read_json(path)
        if manifest["format"] != FORMAT:
            raise DatasetError(f"{path} has format {manifest['format']}, this version reads {FORMAT}. "
                               "Run PreprocessAudioFolder again.")
        samples = tuple(SampleInfo(**entry) for entry in manifest["samples"])
        return Dataset(folder=folder, checkpoint=manifest["checkpoint"], style=manifest["style"], tag=manifest["tag"],
                       samples=samples)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is damaged ({error}). Run PreprocessAudioFolder again.") from error


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One song in memory."""

    name: str
    latents_TC: Tensor
    condition_SD: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples of equal length and equal number of condition tokens; nothing is padded."""

    x0_BTC: Tensor
    condition_BSD: Tensor
    context_BTC: Tensor
    visits: tuple[int, ...]
    """Running number of each sample's visit in the whole training; all randomness of the visit hangs on it."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """On the device; the condition and context in the model's dtype, the latents in float32."""
        return Batch(x0_BTC=self.x0_BTC.to(device), condition_BSD=self.condition_BSD.to(device, dtype),
                     context_BTC=self.context_BTC.to(device, dtype), visits=self.visits)


def load_samples(dataset: Dataset) -> tuple[tuple[Sample, ...], Tensor]:
    """Every sample, and the silence latent [T, 64] as long as the longest; all in memory, float32 on the CPU."""
    silence_TC = _read(dataset.silence, "silence")["silence"]
    samples = []
    for info in dataset.samples:
        tensors = _read(dataset.folder / info.file, "latents", "condition")
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise DatasetError(f"{name} of {info.name!r} has values that are not finite. "
                                   f"Delete {dataset.folder / info.file} and run PreprocessAudioFolder again.")
        samples.append(Sample(name=info.name, latents_TC=tensors["latents"], condition_SD=tensors["condition"]))
    return tuple(samples), silence_TC


def _read(path: Path, *names: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise DatasetError(f"{path} is missing from the dataset. Run PreprocessAudioFolder again; "
                           "it makes only what is missing.")
    try:
        tensors = storage.read_tensors(path)
        # Copies: what is mapped into memory keeps its file from being replaced on Windows.
        return {name: tensors[name].clone() for name in names}
    except (storage.BadTensorFile, KeyError) as error:
        raise DatasetError(f"{path} is damaged ({error}). Delete it and run PreprocessAudioFolder again.") from error


def split_heldout(samples: Sequence[Sample], config: TrainConfig) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """(trained on, held out): a choice by seed and name, so that adding a song does not reshuffle the others."""
    count = config.heldout_songs
    if count == -1:
        count = 0 if len(samples) < 4 else max(1, len(samples) // 10)
    if count >= len(samples):
        raise DatasetError(f"heldout_songs is {count} but the dataset has {len(samples)} song(s); "
                           "none would be left to train on. Lower heldout_songs or add songs.")
    ranked = sorted(samples, key=lambda sample: flow.seed(config.seed, "heldout", sample.name))
    chosen = {sample.name for sample in ranked[:count]}
    trained = tuple(sample for sample in samples if sample.name not in chosen)
    return trained, tuple(sample for sample in samples if sample.name in chosen)


def visited(count: int, seed: int, visit: int) -> int:
    """Index of the sample of visit number `visit`: each epoch is its own permutation, a pure function of the seed."""
    epoch, position = divmod(visit, count)
    return int(torch.randperm(count, generator=flow.generator(seed, "order", epoch))[position])


def batches(samples: Sequence[Sample], silence_TC: Tensor, config: TrainConfig, step: int) -> Iterator[Batch]:
    """The batches of one optimizer step: batch_size * gradient_accumulation visits, in groups of equal shape."""
    per_step = config.batch_size * config.gradient_accumulation
    groups: dict[tuple[int, int], list[tuple[int, Tensor, Tensor]]] = {}
    for visit in range(step * per_step, (step + 1) * per_step):
        sample = samples[visited(len(samples), config.seed, visit)]
        latents_TC = _crop(sample.latents_TC, config, flow.generator(config.seed, "crop", visit))
        shape = (latents_TC.shape[0], sample.condition_SD.shape[0])
        groups.setdefault(shape, []).append((visit, latents_TC, sample.condition_SD))
    for group in groups.values():
        for first in range(0, len(group), config.batch_size):
            yield _collate(group[first:first + config.batch_size], silence_TC)


def whole(sample: Sample, silence_TC: Tensor, config: TrainConfig) -> Batch:
    """One sample as the held-out loss sees it: whole, or its middle window when training crops."""
    latents_TC = sample.latents_TC
    window = _window(config)
    if window and latents_TC.shape[0] > window:
        start = (latents_TC.shape[0] - window) // 2
        latents_TC = latents_TC[start:start + window]
    return _collate([(0, latents_TC, sample.condition_SD)], silence_TC)


def _window(config: TrainConfig) -> int:
    return round(config.crop_seconds * flow.FRAMES_PER_SECOND)


def _crop(latents_TC: Tensor, config: TrainConfig, random: torch.Generator) -> Tensor:
    window = _window(config)
    if not window:
        return latents_TC
    start = flow.crop_start(latents_TC.shape[0], window, random)
    return latents_TC[start:start + window]


def _collate(group: Sequence[tuple[int, Tensor, Tensor]], silence_TC: Tensor) -> Batch:
    x0_BTC = torch.stack([latents_TC for _, latents_TC, _ in group])
    # A crop is a piece of its own: its context is silence from its first frame on.
    silence_BTC = silence_TC[:x0_BTC.shape[1]].expand(len(group), -1, -1)
    return Batch(
        x0_BTC=x0_BTC,
        condition_BSD=torch.stack([condition_SD for _, _, condition_SD in group]),
        context_BTC=flow.context_latents(silence_BTC),
        visits=tuple(visit for visit, _, _ in group),
    )
