"""What training reads beside latents, encoded into the dataset's folder: conditions of prompts, and audio codes.

Each is a file named by what it is made from, written when it is done and never made again.  So several prompts of one
song lie side by side: with its caption and with its genre, for the whole song and for each length of window.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..device import choose_dtype, release_memory
from ..errors import DatasetError
from ..model.audio_codes import load_audio_codes
from ..model.checkpoint import Checkpoint, ModelSource
from ..model.condition_encoder import TextEncoder, load_condition_encoder
from ..model.flow_matching import FRAMES_PER_CODE
from ..model.prompts import COMFYUI, OFFICIAL, Prompt
from ..progress import Progress, Report, ignore
from ..training.config import TrainConfig
from . import tensor_file
from .manifest import IMPORTED, Dataset, frames_trained, words
from .sample_info import SampleInfo

log = logging.getLogger(__name__)

Tick = Callable[[int, int, str], None]
"""Called before each unit of work: its number, how many there are, and what it is."""

TOLD = {
    OFFICIAL: "This dataset's conditions are those of the official program (Gradio) and of diffusers. Generate there "
              "with the adapter; for ComfyUI, preprocess the songs with conditioning comfyui.",
    IMPORTED: "This dataset's conditions were made by another program and differ from those of any generation. Better "
              "preprocess the songs themselves.",
}
"""What is said of a style when a dataset of it is trained on."""
OF_WHOLE_SONGS = " Windows of a song are trained with the condition of the whole song, as there is no text to encode."
REMEMBERED = 8
"""How many of the last lyrics and timbres are kept for prompts that share them."""


def ensure_conditions(source: ModelSource, checkpoint: Checkpoint, dataset: Dataset, config: TrainConfig,
                      device: torch.device, report: Report = ignore) -> None:
    """Encode what a training with this config reads from the dataset and the dataset lacks; mostly nothing.

    A window's condition says the window's duration and has a timbre reference of its length; its lyrics are those of
    the whole song.  An imported dataset has one condition per song, which serves every window.  Says so where the
    conditions are not ComfyUI's.  Loads no model unless something is missing.  DatasetError where another checkpoint
    made the dataset, or genres are asked for and no song has one; CheckpointError where codes are asked for and cannot
    be made.
    """
    _check_origin(checkpoint, dataset)
    if config.genre_ratio > 0 and not any(sample.genre for sample in dataset.samples):
        raise DatasetError(f"genre_ratio is {config.genre_ratio:g}, but no song of the dataset has both a caption and "
                           "a genre that may be told. Set genre_ratio to 0 (where a training leaves it to "
                           "the dataset, -1, the dataset was built with it), or write genres beside the songs and "
                           "preprocess the songs again.")
    _tell_style(dataset, config, report)
    prompts: dict[Path, tuple[str, Prompt]] = {}
    for sample in dataset.samples:
        if sample.foreign_condition:
            continue
        frames = frames_trained(sample.frames, config)
        wanted = sample.prompts(frames) if config.genre_ratio > 0 else (sample.prompt(frames),)
        prompts |= {dataset.condition(prompt): (sample.name, prompt) for prompt in wanted}

    def tick(number: int, total: int, message: str) -> None:
        report(Progress(stage="preprocess", step=number, total=total, message=message))

    try:
        encode_conditions(source, checkpoint, missing(prompts), dataset.style, device, tick)
        release_memory(device)
        if config.context_mode != "silence":
            _encode_codes(source, checkpoint, dataset, device, tick)
    finally:
        release_memory(device)


def _check_origin(checkpoint: Checkpoint, dataset: Dataset) -> None:
    if dataset.checkpoint != checkpoint.fingerprint:
        raise DatasetError(f"The dataset in {dataset.folder} was made with another checkpoint than {checkpoint.name}. "
                           "Preprocess the songs again with this checkpoint.")
    if dataset.style not in (COMFYUI, *TOLD):
        raise DatasetError(f"The conditions of the dataset in {dataset.folder} are of style {dataset.style!r}, which "
                           "this version does not know. Update Side-Step, or preprocess the songs again.")


def _tell_style(dataset: Dataset, config: TrainConfig, report: Report) -> None:
    told = TOLD.get(dataset.style, "")
    if dataset.style == IMPORTED and any(frames_trained(sample.frames, config) < sample.frames
                                         for sample in dataset.samples):
        told += OF_WHOLE_SONGS
    if told:
        log.warning(told)
        report(Progress(stage="preprocess", step=0, total=1, message=told, notice=told))


def missing(prompts: Mapping[Path, tuple[str, Prompt]]) -> dict[Path, tuple[str, Prompt]]:
    """Those whose file is not there yet."""
    return {path: named for path, named in prompts.items() if not path.is_file()}


def encode_conditions(source: ModelSource, checkpoint: Checkpoint, prompts: Mapping[Path, tuple[str, Prompt]],
                      style: str, device: torch.device, tick: Tick) -> None:
    """Write the condition of every prompt (with its song's name) to its file, as the program of this style makes it."""
    if not prompts:
        return
    with torch.inference_mode(False), torch.no_grad():
        condition_of = _condition_maker(source, checkpoint, style, device)
        for number, (path, (name, prompt)) in enumerate(prompts.items()):
            tick(number, len(prompts), f"Reading the words of {name}")
            tensor_file.write(path, "condition", condition_of(replace(prompt, style=style)),
                          words(checkpoint.fingerprint, style, prompt))


def _condition_maker(source: ModelSource, checkpoint: Checkpoint, style: str,
                     device: torch.device) -> Callable[[Prompt], Tensor]:
    """A function from a prompt of this style to its condition, float32 [S, D].

    Never a batch of prompts: matrix kernels sum in another order for another number of rows (float32 on two threads
    already differs), so the bits of a file would depend on which others were missing with it, and a killed run that
    goes on would leave other files than an undisturbed one.  What prompts share is computed once, which gains more: the
    lyrics of a song with its caption, its genre and every window, and the timbre of equal lengths.
    """
    dtype = choose_dtype("auto", device)
    texts = TextEncoder(checkpoint.text_encoder_weights(), source.tokenizer_folder, device)
    encoder = load_condition_encoder(checkpoint.model_weights().under("encoder."), dtype, device, style=style,
                                     timbre_token=checkpoint.has_timbre_token)

    @lru_cache(REMEMBERED)
    def lyrics(ids: tuple[int, ...]) -> Tensor:
        encoded_BLD: Tensor = encoder.lyric_encoder(texts.rows(ids).to(dtype))
        return encoded_BLD

    @lru_cache(REMEMBERED)
    def timbre(frames: int) -> Tensor:
        return encoder.timbre(source.silence_latent(frames)[None].to(device, dtype))

    def condition(prompt: Prompt) -> Tensor:
        return encoder.pack(texts.caption(prompt).to(dtype), lyrics(tuple(texts.lyrics_ids(prompt))),
                            timbre(prompt.timbre_frames))[0].float()

    return condition


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
            tensor_file.write(path, "codes", audio_codes.latents(codes_N)[:sample.frames])
