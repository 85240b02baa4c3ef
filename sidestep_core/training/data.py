"""Samples of a training, read from their files crop by crop, and the files that it needs beyond those of preprocessing.

Shapes: T latent frames, C latent channels, S condition tokens, D width.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..dataset import tensor_file
from ..dataset.captions import without_trigger_word
from ..dataset.conditions import STYLE_NOTICES, encode_codes, encode_conditions, missing
from ..dataset.manifest import IMPORTED, Dataset
from ..dataset.sample_info import SampleInfo
from ..dataset.tensor_file import Rows, StoredRows
from ..device import release_memory
from ..errors import DatasetError
from ..model.checkpoint import Checkpoint, ModelSource
from ..model.flow_matching import FRAMES_PER_CODE
from ..model.prompts import COMFYUI, Prompt
from ..progress import Progress, Report, ignore
from .config import ResolvedConfig
from .draws.texts import Caption, Texts, is_estimated, texts_of
from .heldout import material

log = logging.getLogger(__name__)

WHOLE_SONG_CONDITIONS = " Crops are trained with the condition of the whole song, as there is no text to encode."


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One song, with conditions for the trained length; a slice of its rows is a tensor."""

    name: str
    latents_TC: Rows
    condition_SD: Rows
    variants_SD: tuple[Rows, ...] = ()
    """Conditions with the other captions."""
    genre_SD: Rows | None = None
    """Condition with the genre in place of the caption; None if not trained on, or if the song has no genre."""
    plain_SD: Rows | None = None
    """Condition without the trigger word; None if nothing is preserved."""
    codes_TC: Rows | None = None
    """Latents of the song's audio codes; None if not trained on."""
    texts: Texts | None = None
    """Texts that differ from draw to draw; None if all are told the same."""
    repeats: int = 1
    """Draws per epoch."""
    audio: str = ""
    """Identity of the audio file, shared by its sections."""


def crop_frames(frames: int, config: ResolvedConfig) -> int:
    """Number of frames that one draw of a song of `frames` trains on: the crop's, or all of a shorter song."""
    return min(frames, config.chunk_frames or frames)


def load_samples(dataset: Dataset, config: ResolvedConfig) -> tuple[tuple[Sample, ...], Tensor]:
    """Open every sample, and load the silence latent [T, 64] as long as the longest; float32 on the CPU.

    `ensure_conditions` makes the files that are missing.  DatasetError for a file that is missing; damage is found
    when a song is first read.
    """
    return open_samples(dataset, dataset.samples, config), read_silence(dataset)


def read_silence(dataset: Dataset) -> Tensor:
    """Read the silence latent [T, 64], as long as the longest song."""
    return tensor_file.read(dataset.silence, "silence", "silence")


def open_samples(dataset: Dataset, infos: Sequence[SampleInfo], config: ResolvedConfig) -> tuple[Sample, ...]:
    """Open some of the dataset's samples, or parts of them; see `load_samples`."""
    samples = []
    for info in infos:
        frames = crop_frames(info.frames, config)
        with_genre, with_codes = config.genre_ratio > 0 and info.genre, config.context_mode != "silence"
        samples.append(Sample(
            name=info.name,
            latents_TC=tensor_file.open_rows(dataset.latents(info), "latents", info.name, info.start, info.frames),
            condition_SD=_condition(dataset, info, frames, genre=False),
            variants_SD=tuple(_rows(dataset, info, prompt) for prompt in info.variants(frames)[1:]),
            genre_SD=_condition(dataset, info, frames, genre=True) if with_genre else None,
            plain_SD=_rows(dataset, info, _plain(dataset, info, frames)) if config.preserve else None,
            codes_TC=(tensor_file.open_rows(dataset.codes(info), "codes", info.name, info.start, info.frames)
                      if with_codes else None),
            texts=_texts(dataset, info, config),
            repeats=info.repeats,
            audio=info.audio,
        ))
    return tuple(samples)


def _condition(dataset: Dataset, info: SampleInfo, frames: int, *, genre: bool) -> StoredRows:
    if info.foreign_condition:
        path = dataset.folder / info.foreign_condition
        return tensor_file.open_rows(path, "genre" if genre else "condition", info.name)
    return _rows(dataset, info, info.prompt(frames, genre=genre))


def _rows(dataset: Dataset, info: SampleInfo, prompt: Prompt) -> StoredRows:
    return tensor_file.open_rows(dataset.condition(prompt), "condition", info.name)


def _plain(dataset: Dataset, info: SampleInfo, frames: int) -> Prompt:
    """Prompt without the trigger word."""
    trigger_word = info.trigger_word or dataset.trigger_word
    return replace(info.prompt(frames), caption=without_trigger_word(info.caption, trigger_word))


def _texts(dataset: Dataset, info: SampleInfo, config: ResolvedConfig) -> Texts | None:
    frames = crop_frames(info.frames, config)
    captions: dict[Caption, str] = {"caption": info.caption}
    if config.genre_ratio > 0 and info.genre:
        captions["genre"] = info.genre
    if config.preserve:
        captions["plain"] = _plain(dataset, info, frames).caption
    return texts_of(info, config, frames, grid(config), captions, partial(_rows, dataset, info))


def grid(config: ResolvedConfig) -> int:
    """Step in frames between possible crop starts: an audio code's length with codes, as generation has no half ones.
    """
    return 1 if config.context_mode == "silence" else FRAMES_PER_CODE


def ensure_conditions(source: ModelSource, checkpoint: Checkpoint, dataset: Dataset, config: ResolvedConfig,
                      device: torch.device, report: Report = ignore) -> None:
    """Encode the conditions and audio codes that the training needs and the dataset lacks; usually none.

    A crop's condition states the crop's duration and has a timbre reference of its length; for its lyrics see
    `draws.texts`.  An imported dataset has one condition per song, which serves every crop.  Conditions that are not
    ComfyUI's are reported.  No model is loaded unless something is missing.  DatasetError if another checkpoint made
    the dataset, or genre_ratio is above 0 and no song has a genre; CheckpointError if codes cannot be made.
    """
    _check_origin(checkpoint, dataset)
    if config.genre_ratio > 0 and not any(sample.genre for sample in dataset.samples):
        raise DatasetError(f"genre_ratio is {config.genre_ratio:g}, but no song of the dataset has both a caption and "
                           "a genre. Set genre_ratio to 0 here or, if it is automatic, when the dataset is built; or "
                           "write genres for the songs. Then preprocess the songs again.")
    if config.preserve and any(sample.foreign_condition for sample in dataset.samples):
        raise DatasetError("preserve needs captions without the trigger word, and this dataset was imported: it has no "
                           "texts to make them from. Switch preserve off, or preprocess the songs themselves.")
    _report_style(dataset, config, report)
    _report_estimates(dataset, config, report)

    def tick(number: int, total: int, message: str) -> None:
        report(Progress(stage="preprocess", step=number, total=total, message=message))

    try:
        encode_conditions(source, checkpoint, missing(needed(dataset, config)), dataset.style, device, tick)
        release_memory(device)
        if config.context_mode != "silence":
            encode_codes(source, checkpoint, dataset, device, tick)
    finally:
        release_memory(device)


def needed(dataset: Dataset, config: ResolvedConfig) -> dict[Path, tuple[str, Prompt]]:
    """List the conditions that the training reads: path of the file -> song name, prompt."""
    prompts: dict[Path, tuple[str, Prompt]] = {}
    for sample in itertools.chain(*material.split(dataset.samples, config)):
        if sample.foreign_condition:
            continue
        frames = crop_frames(sample.frames, config)
        wanted = sample.prompts(frames) if config.genre_ratio > 0 else sample.variants(frames)
        wanted += (_plain(dataset, sample, frames),) if config.preserve else ()
        texts = _texts(dataset, sample, config)
        wanted += () if texts is None else tuple(texts.prompts(config))
        prompts |= {dataset.condition(prompt): (sample.name, prompt) for prompt in wanted}
    return prompts


def _check_origin(checkpoint: Checkpoint, dataset: Dataset) -> None:
    if dataset.checkpoint != checkpoint.fingerprint:
        raise DatasetError(f"The dataset in {dataset.folder} was made with another checkpoint than {checkpoint.name}. "
                           "Preprocess the songs again with this checkpoint.")
    if dataset.style not in (COMFYUI, *STYLE_NOTICES):
        raise DatasetError(f"The conditions of the dataset in {dataset.folder} are of style {dataset.style!r}, which "
                           "this version does not know. Update Side-Step, or preprocess the songs again.")


def _report_style(dataset: Dataset, config: ResolvedConfig, report: Report) -> None:
    notice = STYLE_NOTICES.get(dataset.style, "")
    if dataset.style == IMPORTED and any(crop_frames(sample.frames, config) < sample.frames
                                         for sample in dataset.samples):
        notice += WHOLE_SONG_CONDITIONS
    if notice:
        log.warning(notice)
        report(Progress(stage="preprocess", step=0, total=1, message=notice, notice=notice))


def _report_estimates(dataset: Dataset, config: ResolvedConfig, report: Report) -> None:
    names = [sample.name for sample in dataset.samples if is_estimated(sample, config)]
    if names:
        notice = (f"The lyrics of {len(names)} song(s) have no times, so the lines of their crops are estimated, "
                  f"such as those of {names[0]}. Times in LRC format would make them exact.")
        log.info(notice)
        report(Progress(stage="preprocess", step=0, total=1, message=notice, notice=notice))
