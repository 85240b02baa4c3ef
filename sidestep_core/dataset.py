"""A preprocessed dataset: its folder, its samples in memory, and which of them each training step visits.

On disk, named by what they are made from, so that a stale file can never be taken for a right one:

    manifest.json               the songs, and what is written about them
    *.latents.safetensors       latents [T, 64] of a song
    *.condition.safetensors     condition [S, D] of a prompt and a length; several per song
    *.codes.safetensors         latents [T, 64] of a song's audio codes; only where a training asked for them
    silence-N.safetensors       the latent of silence

Shapes: B batch, T latent frame, C latent channel, S condition token, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import flow, storage
from .errors import DatasetError
from .prompts import Prompt
from .sample_info import SampleInfo
from .train_config import TrainConfig

MANIFEST = "manifest.json"
FORMAT = 2
CONDITION_VERSION = 1
CODES_VERSION = 1
"""Parts of the files' names; raised when the same song or prompt would be encoded differently."""


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
        words = {sample: [self.condition(prompt).name for prompt in sample.prompts()] for sample in self.samples}
        songs = sorted((sample.name, sample.latents, *words[sample]) for sample in self.samples)
        return storage.fingerprint(self.checkpoint, self.style, songs)

    @property
    def seconds(self) -> float:
        return sum(sample.seconds for sample in self.samples)

    def is_whole(self) -> bool:
        """Whether every file of it is there that preprocessing makes."""
        files = [self.silence]
        for sample in self.samples:
            files += [self.latents(sample), *map(self.condition, sample.prompts())]
        return all(file.is_file() for file in files)

    def latents(self, sample: SampleInfo) -> Path:
        """File of a song's latents."""
        return self.folder / sample.latents

    def read_latents(self, sample: SampleInfo) -> Tensor:
        """A song's latents [T, 64], float32 on the CPU."""
        return _read(self.latents(sample), "latents", sample.name)

    def condition(self, prompt: Prompt) -> Path:
        """File of a prompt's condition, whose timbre reference is as long as the prompt says."""
        frames = round(prompt.seconds * flow.FRAMES_PER_SECOND)
        key = storage.fingerprint(CONDITION_VERSION, self.checkpoint, self.style, prompt.caption_text,
                                  prompt.lyrics_text, frames)
        return self.folder / f"{key}.condition.safetensors"

    def codes(self, sample: SampleInfo) -> Path:
        """File of the latents that the checkpoint makes of a song's audio codes."""
        # The latents' name says of which checkpoint they are.
        return self.folder / f"{storage.fingerprint(CODES_VERSION, sample.latents)}.codes.safetensors"

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
    """One song in memory, with conditions for the length that is trained on."""

    name: str
    latents_TC: Tensor
    condition_SD: Tensor
    genre_SD: Tensor | None = None
    """The condition with the genre in place of the caption, where a training asks for it and the song has one."""
    codes_TC: Tensor | None = None
    """Latents of the song's audio codes, where a training asks for them."""


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


def frames_trained(frames: int, config: TrainConfig) -> int:
    """How many frames of a song of this length one visit trains on: the window, where the song is longer."""
    return min(frames, config.chunk_frames or frames)


def load_samples(dataset: Dataset, config: TrainConfig) -> tuple[tuple[Sample, ...], Tensor]:
    """Every sample with what this training needs of it, and the silence latent [T, 64] as long as the longest.

    All in memory, float32 on the CPU.  `encoding.ensure_conditions` makes what is missing.
    """
    samples = []
    for info in dataset.samples:
        frames = frames_trained(info.frames, config)
        with_genre, with_codes = config.genre_ratio > 0 and info.genre, config.context_mode != "silence"
        samples.append(Sample(
            name=info.name,
            latents_TC=dataset.read_latents(info),
            condition_SD=_read(dataset.condition(info.prompt(frames)), "condition", info.name),
            genre_SD=_read(dataset.condition(info.prompt(frames, genre=True)), "condition", info.name)
            if with_genre else None,
            codes_TC=_read(dataset.codes(info), "codes", info.name) if with_codes else None,
        ))
    return tuple(samples), _read(dataset.silence, "silence", "silence")


def _read(path: Path, tensor: str, song: str) -> Tensor:
    if not path.is_file():
        raise DatasetError(f"{path} is missing from the dataset. Run PreprocessAudioFolder again; "
                           "it makes only what is missing.")
    try:
        # A copy: what is mapped into memory keeps its file from being replaced on Windows.
        values = storage.read_tensors(path)[tensor].clone()
    except (storage.BadTensorFile, KeyError) as error:
        raise DatasetError(f"{path} is damaged ({error}). Delete it and run PreprocessAudioFolder again.") from error
    if not torch.isfinite(values).all():
        raise DatasetError(f"{tensor} of {song!r} has values that are not finite. Delete {path} and run "
                           "PreprocessAudioFolder again.")
    return values


def _heldout(songs: int, config: TrainConfig) -> int:
    """How many of so many songs are never trained on."""
    count = config.heldout_songs
    if count == -1:
        count = 0 if songs < 4 else max(1, songs // 10)
    if count >= songs:
        raise DatasetError(f"heldout_songs is {count} but the dataset has {songs} song(s); "
                           "none would be left to train on. Lower heldout_songs or add songs.")
    return count


def trained_songs(dataset: Dataset, config: TrainConfig) -> int:
    """How many songs a training with this config trains on.  DatasetError where none would be left."""
    return len(dataset.samples) - _heldout(len(dataset.samples), config)


def split_heldout(samples: Sequence[Sample], config: TrainConfig) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """(trained on, held out): a choice by seed and name, so that adding a song does not reshuffle the others."""
    count = _heldout(len(samples), config)
    ranked = sorted(samples, key=lambda sample: flow.seed(config.seed, "heldout", sample.name))
    chosen = {sample.name for sample in ranked[:count]}
    trained = tuple(sample for sample in samples if sample.name not in chosen)
    return trained, tuple(sample for sample in samples if sample.name in chosen)


def visited(count: int, seed: int, visit: int) -> int:
    """Index of the sample of visit number `visit`: each epoch is its own permutation, a pure function of the seed."""
    epoch, position = divmod(visit, count)
    return int(torch.randperm(count, generator=flow.generator(seed, "order", epoch))[position])


def visits_of_step(config: TrainConfig, songs: int, step: int) -> range:
    """The visits of one optimizer step (0-based); the last step of a run by epochs has what is left of the epoch."""
    first = step * config.samples_per_step
    last = first + config.samples_per_step
    return range(first, min(last, config.epochs * songs) if config.epochs else last)


@dataclass(frozen=True, kw_only=True)
class _Visit:
    """What one visit trains on: a window, the words it is told, and the source of its context."""

    number: int
    x0_TC: Tensor
    condition_SD: Tensor
    source_TC: Tensor


def batches(samples: Sequence[Sample], silence_TC: Tensor, config: TrainConfig, step: int) -> Iterator[Batch]:
    """The batches of one optimizer step: its visits in groups of equal shape, at most batch_size in each."""
    groups: dict[tuple[int, int], list[_Visit]] = {}
    for number in visits_of_step(config, len(samples), step):
        sample = samples[visited(len(samples), config.seed, number)]
        visit = _visit(sample, silence_TC, config, number, number // len(samples))
        groups.setdefault((visit.x0_TC.shape[0], visit.condition_SD.shape[0]), []).append(visit)
    for group in groups.values():
        for first in range(0, len(group), config.batch_size):
            yield _collate(group[first:first + config.batch_size])


def _visit(sample: Sample, silence_TC: Tensor, config: TrainConfig, number: int, epoch: int) -> _Visit:
    """A new window every epoch, and by chance of the visit the genre for the caption and codes for silence."""
    genre = sample.genre_SD if flow.happens(config.genre_ratio, config.seed, "genre", number) else None
    ratio = {"silence": 0.0, "mixed": config.codes_ratio, "codes": 1.0}[config.context_mode]
    codes = sample.codes_TC if flow.happens(ratio, config.seed, "codes", number) else None
    frames = sample.latents_TC.shape[0]
    start = flow.window_start(frames, frames_trained(frames, config), epoch,
                              flow.seed(config.seed, "window", sample.name), _grid(config))
    return _cut(sample, silence_TC, config, number, start, sample.condition_SD if genre is None else genre, codes)


def whole(sample: Sample, silence_TC: Tensor, config: TrainConfig) -> Batch:
    """One sample as the held-out loss sees it: whole, or its middle window when training crops.

    Always with its caption; with codes only where training always has them.
    """
    frames = sample.latents_TC.shape[0]
    start = (frames - frames_trained(frames, config)) // 2 // _grid(config) * _grid(config)
    codes = sample.codes_TC if config.context_mode == "codes" else None
    return _collate([_cut(sample, silence_TC, config, 0, start, sample.condition_SD, codes)])


def _grid(config: TrainConfig) -> int:
    """Windows begin where an audio code does, if there are codes: generation knows no half ones."""
    return 1 if config.context_mode == "silence" else flow.FRAMES_PER_CODE


def _cut(sample: Sample, silence_TC: Tensor, config: TrainConfig, number: int, start: int, condition_SD: Tensor,
         codes_TC: Tensor | None) -> _Visit:
    length = frames_trained(sample.latents_TC.shape[0], config)
    # A crop is a piece of its own: its context is silence from its first frame on.
    source_TC = silence_TC[:length] if codes_TC is None else codes_TC[start:start + length]
    return _Visit(number=number, x0_TC=sample.latents_TC[start:start + length], condition_SD=condition_SD,
                  source_TC=source_TC)


def _collate(group: Sequence[_Visit]) -> Batch:
    return Batch(
        x0_BTC=torch.stack([visit.x0_TC for visit in group]),
        condition_BSD=torch.stack([visit.condition_SD for visit in group]),
        context_BTC=flow.context_latents(torch.stack([visit.source_TC for visit in group])),
        visits=tuple(visit.number for visit in group),
    )
