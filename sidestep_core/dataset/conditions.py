"""Conditions of prompts, and audio codes, encoded into the dataset's folder.

Each is a file named by its content's inputs, written when it is done and never made again.  A song can have several
conditions: with each of its captions and with its genre, for the whole song and for each crop length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..device import choose_dtype
from ..model.audio_codes import load_audio_codec
from ..model.checkpoint import Checkpoint, ModelSource
from ..model.condition_encoder import TextEncoder, load_condition_encoder
from ..model.flow_matching import FRAMES_PER_CODE
from ..model.prompts import OFFICIAL, Prompt
from . import tensor_file
from .manifest import IMPORTED, Dataset, prompt_key
from .sample_info import SampleInfo

Tick = Callable[[int, int, str], None]
"""Called before each unit of work with its number, the total, and a message."""

STYLE_NOTICES = {
    OFFICIAL: "This dataset's conditions are those of the official program (Gradio) and of diffusers. Generate there "
              "with the adapter. For ComfyUI, preprocess the songs again with conditioning comfyui.",
    IMPORTED: "This dataset's conditions were made by another program and differ from those of any generation. To get "
              "matching ones, preprocess the songs themselves.",
}
"""Notices for trainings on a dataset of this style; there is none for ComfyUI's."""
REMEMBERED, CAPTIONS_REMEMBERED = 8, 64
"""Number of recent encodings kept for prompts that share them: lyrics and timbre, and the short captions."""


def missing(prompts: Mapping[Path, tuple[str, Prompt]]) -> dict[Path, tuple[str, Prompt]]:
    """Select the prompts without a condition file."""
    return {path: named for path, named in prompts.items() if not path.is_file()}


def encode_conditions(source: ModelSource, checkpoint: Checkpoint, prompts: Mapping[Path, tuple[str, Prompt]],
                      style: str, device: torch.device, tick: Tick) -> None:
    """Encode every prompt (path of its file -> song name, prompt) in the given style, and write the condition.

    Prompts of equal lyrics come one after the other, so that these are encoded once.
    """
    if not prompts:
        return
    places: dict[str, int] = {}
    for _, prompt in prompts.values():
        places.setdefault(prompt.lyrics_text, len(places))
    prompts = dict(sorted(prompts.items(), key=lambda one: places[one[1][1].lyrics_text]))
    with torch.inference_mode(False), torch.no_grad():
        condition_of = _condition_maker(source, checkpoint, style, device)
        for number, (path, (name, prompt)) in enumerate(prompts.items()):
            tick(number, len(prompts), f"Reading the text of {name}")
            tensor_file.write(path, "condition", condition_of(replace(prompt, style=style)),
                          prompt_key(checkpoint.fingerprint, style, prompt))


def _condition_maker(source: ModelSource, checkpoint: Checkpoint, style: str,
                     device: torch.device) -> Callable[[Prompt], Tensor]:
    """Load the encoders; the returned function maps a prompt to its condition, float32 [S, D].

    Prompts are never batched: matrix kernels sum in another order for another number of rows (float32 on two threads
    already differs), so the bits of a file would depend on the other missing files, and a resumed preprocessing would
    leave other files than an uninterrupted one.  Caching shared parts gains more: the lyrics of a song across its
    caption, genre and crops, and the timbre of equal lengths.
    """
    dtype = choose_dtype("auto", device)
    texts = TextEncoder(checkpoint.text_encoder_weights(), source.tokenizer_folder, device)
    encoder = load_condition_encoder(checkpoint.model_weights().under("encoder."), dtype, device, style=style,
                                     timbre_token=checkpoint.has_timbre_token)

    @lru_cache(REMEMBERED)
    def lyrics(ids: tuple[int, ...]) -> Tensor:
        encoded_BLD: Tensor = encoder.lyric_encoder(texts.embed(ids).to(dtype))
        return encoded_BLD

    @lru_cache(CAPTIONS_REMEMBERED)
    def caption(prompt: Prompt) -> Tensor:
        hidden_BLD: Tensor = texts.encode_caption(prompt).to(dtype)
        return hidden_BLD

    @lru_cache(REMEMBERED)
    def timbre(frames: int) -> Tensor:
        token_B1D: Tensor = encoder.timbre_encoder(source.silence_latent(frames)[None].to(device, dtype))
        return token_B1D

    def condition(prompt: Prompt) -> Tensor:
        without_lyrics = replace(prompt, lyrics="", language="")
        return encoder.pack(caption(without_lyrics), lyrics(tuple(texts.lyrics_ids(prompt))),
                            timbre(prompt.timbre_frames))[0].float()

    return condition


def encode_codes(source: ModelSource, checkpoint: Checkpoint, dataset: Dataset, device: torch.device,
                  tick: Tick) -> None:
    """Extract the audio codes of every song that has none yet, and write their latents."""
    songs: dict[Path, SampleInfo] = {dataset.codes(sample): sample for sample in dataset.samples}
    wanted = {path: sample for path, sample in songs.items() if not path.is_file()}
    if not wanted:
        return
    with torch.inference_mode(False), torch.no_grad():
        audio_codes = load_audio_codec(checkpoint.model_weights(), device)
        silence_TC = source.silence_latent(FRAMES_PER_CODE).float().to(device)
        for number, (path, sample) in enumerate(wanted.items()):
            tick(number, len(wanted), f"Extracting the audio codes of {sample.name}")
            latents_TC = dataset.read_latents(sample).to(device)
            codes_N = audio_codes.encode(latents_TC, silence_TC)
            tensor_file.write(path, "codes", audio_codes.decode(codes_N)[:sample.frames])
