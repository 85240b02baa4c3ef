"""What training reads beside latents, encoded into the dataset's folder: conditions of prompts, and audio codes.

Each is a file named by what it is made from, written when it is done and never made again.  So several prompts of one
song lie side by side: with its caption and with its genre, for the whole song and for each length of window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from . import storage
from .checkpoint import Checkpoint, ModelSource
from .codes import load_audio_codes
from .conditions import STYLE, TextEncoder, load_condition_encoder
from .dataset import Dataset, frames_trained
from .device import choose_dtype, release_memory
from .errors import DatasetError
from .flow import FRAMES_PER_CODE, FRAMES_PER_SECOND
from .progress import Progress, Report, ignore
from .prompts import Prompt
from .sample_info import SampleInfo
from .train_config import TrainConfig

Tick = Callable[[int, int, str], None]
"""Called before each unit of work: its number, how many there are, and what it is."""


def ensure_conditions(source: ModelSource, checkpoint: Checkpoint, dataset: Dataset, config: TrainConfig,
                      device: torch.device, report: Report = ignore) -> None:
    """Encode what a training with this config reads from the dataset and the dataset lacks; mostly nothing.

    A window's condition says the window's duration and has a timbre reference of its length; its lyrics are those of
    the whole song.  Loads no model unless something is missing.  DatasetError where another checkpoint made the
    dataset, or genres are asked for and no song has one; CheckpointError where codes are asked for and cannot be made.
    """
    if (dataset.checkpoint, dataset.style) != (checkpoint.fingerprint, STYLE):
        raise DatasetError(f"The dataset in {dataset.folder} was made with another checkpoint ({dataset.checkpoint}, "
                           f"{dataset.style}) than {checkpoint.name} ({checkpoint.fingerprint}, {STYLE}). "
                           "Run PreprocessAudioFolder again with this checkpoint.")
    if config.genre_ratio > 0 and not any(sample.genre for sample in dataset.samples):
        raise DatasetError(f"genre_ratio is {config.genre_ratio:g}, but no song of the dataset has both a caption and "
                           "a genre. Set genre_ratio to 0, or write genres beside the songs and run "
                           "PreprocessAudioFolder again.")
    prompts: dict[Path, tuple[str, Prompt]] = {}
    for sample in dataset.samples:
        frames = frames_trained(sample.frames, config)
        wanted = sample.prompts(frames) if config.genre_ratio > 0 else (sample.prompt(frames),)
        prompts |= {dataset.condition(prompt): (sample.name, prompt) for prompt in wanted}

    def tick(number: int, total: int, message: str) -> None:
        report(Progress(stage="preprocess", step=number, total=total, message=message))

    try:
        encode_conditions(source, checkpoint, missing(prompts), device, tick)
        release_memory(device)
        if config.context_mode != "silence":
            _encode_codes(source, checkpoint, dataset, device, tick)
    finally:
        release_memory(device)


def missing(prompts: Mapping[Path, tuple[str, Prompt]]) -> dict[Path, tuple[str, Prompt]]:
    """Those whose file is not there yet."""
    return {path: named for path, named in prompts.items() if not path.is_file()}


def encode_conditions(source: ModelSource, checkpoint: Checkpoint, prompts: Mapping[Path, tuple[str, Prompt]],
                      device: torch.device, tick: Tick) -> None:
    """Write the condition of every prompt (with its song's name) to its file."""
    if not prompts:
        return
    with torch.inference_mode(False), torch.no_grad():
        text_encoder = TextEncoder(checkpoint.text_encoder_weights(), source.tokenizer_folder, device)
        dtype = choose_dtype("auto", device)
        encoder = load_condition_encoder(checkpoint.model_weights().under("encoder."), dtype, device)
        for number, (path, (name, prompt)) in enumerate(prompts.items()):
            tick(number, len(prompts), f"Reading the words of {name}")
            timbre_TC = source.silence_latent(round(prompt.seconds * FRAMES_PER_SECOND))
            condition_BSD = encoder(text_encoder.caption(prompt).to(dtype), text_encoder.lyrics(prompt).to(dtype),
                                    timbre_TC[None].to(device, dtype))
            storage.write_tensors(path, {"condition": condition_BSD[0].float()})


def _encode_codes(source: ModelSource, checkpoint: Checkpoint, dataset: Dataset, device: torch.device,
                  tick: Tick) -> None:
    """Write the latents of every song's audio codes to its file."""
    songs: dict[Path, SampleInfo] = {dataset.codes(sample): sample for sample in dataset.samples}
    wanted = {path: sample for path, sample in songs.items() if not path.is_file()}
    if not wanted:
        return
    with torch.inference_mode(False), torch.no_grad():
        audio_codes = load_audio_codes(checkpoint.model_weights(), device)
        silence_TC = source.silence_latent(FRAMES_PER_CODE).float().to(device)
        for number, (path, sample) in enumerate(wanted.items()):
            tick(number, len(wanted), f"Listening for the audio codes of {sample.name}")
            latents_TC = dataset.read_latents(sample).to(device)
            codes_N = audio_codes.of(latents_TC, silence_TC)
            storage.write_tensors(path, {"codes": audio_codes.latents(codes_N)[:sample.frames].cpu()})
