"""Tiny checkpoint, tokenizer, stand-in VAE and dataset for core tests, all as real files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from demo.synthetic_model import write_tiny_models
from sidestep_core import rng
from sidestep_core.dataset import tensor_file
from sidestep_core.dataset.conditions import missing
from sidestep_core.dataset.manifest import Dataset, write_manifest
from sidestep_core.dataset.sample_info import SampleInfo
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from sidestep_core.model.condition_encoder import END_OF_TEXT
from sidestep_core.training.config import ResolvedConfig
from sidestep_core.training.data import needed

SAMPLES_PER_FRAME = 1920


def tiny_checkpoint(folder: Path, seed: int = 0) -> Checkpoint:
    """Write a checkpoint of a few megabytes in float32, so that nothing is lost to rounding."""
    paths = write_tiny_models(folder, seed=seed, dtype=torch.float32)
    return open_checkpoint(paths.model, text_encoder=paths.text_encoder, vae=paths.vae)


def write_byte_tokenizer(folder: Path) -> Path:
    """Write a Qwen tokenizer whose vocabulary is the 256 bytes and <|endoftext|> at its real id."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {character: index for index, character in enumerate(bytes_to_unicode().values())}
    vocabulary["<|endoftext|>"] = END_OF_TEXT
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Qwen2Tokenizer"}), encoding="utf-8")
    return folder


@dataclass(frozen=True)
class TinySource:
    """ModelSource whose VAE has one frame of context on both sides, where the real one has seven."""

    tokenizer_folder: Path
    encoded: list[int]
    """Length of each encoded waveform."""

    def audio_encoder(self, checkpoint: Checkpoint, device: torch.device) -> Callable[[Tensor], Tensor]:
        weight = torch.randn(64, 2, 3 * SAMPLES_PER_FRAME, generator=rng.generator("vae"))
        weight /= math.sqrt(SAMPLES_PER_FRAME)

        def encode(waveform: Tensor) -> Tensor:
            self.encoded.append(waveform.shape[-1])
            return torch.nn.functional.conv1d(waveform, weight, stride=SAMPLES_PER_FRAME, padding=SAMPLES_PER_FRAME)

        return encode

    def silence_latent(self, frames: int) -> Tensor:
        head = torch.randn(4, 64, generator=rng.generator("silence"))
        return torch.cat((head, head.mean(0).expand(max(0, frames - 4), -1)))[:frames].clone()


def sample_info(number: int, frames: int, genre: str = "") -> SampleInfo:
    """Describe song `number` of a dataset."""
    return SampleInfo(name=f"song{number}.wav", latents=f"{number}.latents.safetensors", frames=frames,
                      caption=f"song {number}", genre=genre, lyrics="la", language="en", bpm=90, key="C major",
                      signature="4/4", audio="", size=0, modified=0)


def write_dataset(folder: Path, checkpoint: Checkpoint, frames: tuple[int, ...],
                  tokens: int | tuple[int, ...] = 9, width: int = 64,
                  windows: tuple[int, ...] = (), genre: str = "", codes: bool = False,
                  plain: bool = False, lyrics: str = "", captions: tuple[str, ...] = ()) -> Dataset:
    """A dataset of random songs of these lengths, as preprocessing would leave it.

    Also with conditions for windows of these lengths, with a genre, without a caption, and with latents of codes, as
    `data.ensure_conditions` would leave it; random ones, which takes no encoder.
    """
    infos = tuple(sample_info(index, length, genre and f"{genre} {index}") for index, length in enumerate(frames))
    infos = tuple(replace(info, lyrics=lyrics or info.lyrics, captions=captions) for info in infos)
    dataset = Dataset(folder=folder, checkpoint=checkpoint.fingerprint, style="comfyui", trigger_word="", samples=infos)
    for index, info in enumerate(infos):
        random = rng.generator("song", index)
        latents_TC = torch.randn(info.frames, 64, generator=random)
        tensor_file.write(dataset.latents(info), "latents", latents_TC)
        for length in (info.frames, *windows):
            plains = (replace(info.prompt(length), caption=""),) if plain else ()
            for prompt in (*info.prompts(length), *plains):
                count = tokens if isinstance(tokens, int) else tokens[index]
                tensor_file.write(dataset.condition(prompt), "condition", torch.randn(count, width, generator=random),
                              dataset.prompt_key(prompt))
        if codes:
            tensor_file.write(dataset.codes(info), "codes", latents_TC + 1)
    silence = torch.randn(max(frames), 64, generator=rng.generator("silence"))
    tensor_file.write(dataset.silence, "silence", silence)
    write_manifest(dataset)
    return dataset


def write_conditions(dataset: Dataset, config: ResolvedConfig) -> None:
    """Write random conditions of all prompts that a training with these settings reads and the dataset lacks."""
    for path, (_, prompt) in missing(needed(dataset, config)).items():
        random = rng.generator("condition", path.name)
        tensor_file.write(path, "condition", torch.randn(9, 64, generator=random), dataset.prompt_key(prompt))
