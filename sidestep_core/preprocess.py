"""From songs to a dataset: latents by the VAE, conditions by the text and condition encoders, cached by content.

Two passes, so that the VAE and the encoders are never on the device together: audio first, then text (which needs the
exact length).  Every file is written when it is done; what exists is never made again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from . import audio, flow, storage
from .checkpoint import Checkpoint, ModelSource
from .conditions import STYLE
from .config import PreprocessConfig
from .dataset import MANIFEST, Dataset, open_dataset, write_manifest
from .device import choose_device, explain_out_of_memory, release_memory
from .encoding import encode_conditions, missing
from .errors import DatasetError
from .progress import Cancelled, Progress, Report, ignore
from .sample_info import SampleInfo
from .songs import Problem, Song

log = logging.getLogger(__name__)

VERSION = 1
"""Part of the latents' names; raised when the same audio would be encoded differently."""
SAMPLES_PER_FRAME = audio.SAMPLE_RATE // flow.FRAMES_PER_SECOND
TILE_OVERLAP = 8
"""Frames of context on each side of a VAE tile; the encoder reaches 7, so tiles join exactly."""
INSTRUMENTAL = "[Instrumental]"


@dataclass(frozen=True, kw_only=True)
class Preprocessed:
    """The dataset, and the songs that are not in it with the reason for each."""

    dataset: Dataset
    problems: tuple[Problem, ...]
    made: int
    """For how many songs something was encoded now; the others were there already."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A song, the file of its latents, and what its audio file was like."""

    song: Song
    latents: Path
    audio: str
    size: int
    modified: int


def preprocess(source: ModelSource, checkpoint: Checkpoint, songs: Sequence[Song], folder: Path,
               config: PreprocessConfig, *, device: str = "auto", report: Report = ignore) -> Preprocessed:
    """Encode what is new or changed, and write the dataset's manifest.

    A song that cannot be used is reported and left out; DatasetError when none is left.
    """
    place = choose_device(device)
    folder.mkdir(parents=True, exist_ok=True)
    storage.remove_leftovers(folder)
    plan = list(_plan(checkpoint, songs, folder, config, report))
    jobs = [job for job in plan if isinstance(job, _Job)]
    new_audio = {job.latents: job for job in jobs if not job.latents.is_file()}
    with explain_out_of_memory("preprocessing", "Lower tile_seconds."), torch.inference_mode(False), torch.no_grad():
        try:
            unusable = _encode_audio(source, checkpoint, list(new_audio.values()), config, place, report)
            release_memory(place)
            samples = tuple(_describe(job, config) for job in jobs if job.latents not in unusable)
            dataset = Dataset(folder=folder, checkpoint=checkpoint.fingerprint, style=STYLE, tag=config.trigger_word,
                              samples=samples)
            prompts = {dataset.condition(prompt): (sample.name, prompt) for sample in samples
                       for prompt in sample.prompts()}
            new_words = missing(prompts)
            encode_conditions(source, checkpoint, new_words, place,
                              lambda number, total, message: _tick(report, len(songs) + number, len(songs) + total,
                                                                   message))
        except Cancelled as stop:
            raise Cancelled(f"Stopped. What is encoded so far is kept in {folder}; run again to go on.") from stop
        finally:
            release_memory(place)
    problems = tuple(item if isinstance(item, Problem) else Problem(name=item.song.name, reason=unusable[item.latents])
                     for item in plan if isinstance(item, Problem) or item.latents in unusable)
    if not samples:
        raise DatasetError("No song can be used. " + "; ".join(f"{p.name}: {p.reason}" for p in problems[:5]))
    if not dataset.silence.is_file():
        longest = max(sample.frames for sample in samples)
        storage.write_tensors(dataset.silence, {"silence": source.silence_latent(longest).float()})
    write_manifest(dataset)
    for problem in problems:
        log.warning("%s is left out: %s", problem.name, problem.reason)
    made = sum(dataset.latents(sample) in new_audio or any(dataset.condition(prompt) in new_words
                                                           for prompt in sample.prompts()) for sample in samples)
    return Preprocessed(dataset=dataset, problems=problems, made=made)


def caption_of(song: Song, config: PreprocessConfig) -> str:
    """The caption, or else the genre, with the trigger word in its place."""
    return _tagged((song.caption or song.genre).strip(), song, config)


def genre_of(song: Song, config: PreprocessConfig) -> str:
    """The genre with the trigger word in its place; empty where it would not differ from the caption."""
    genre = _tagged(song.genre.strip(), song, config) if song.genre.strip() else ""
    return "" if genre == caption_of(song, config) else genre


def _tagged(text: str, song: Song, config: PreprocessConfig) -> str:
    tag = (song.tag or config.trigger_word).strip()
    if not tag:
        return text
    if config.trigger_position == "replace" or not text:
        return tag
    return f"{tag}, {text}" if config.trigger_position == "prepend" else f"{text}, {tag}"


def _plan(checkpoint: Checkpoint, songs: Sequence[Song], folder: Path, config: PreprocessConfig,
          report: Report) -> Iterator[_Job | Problem]:
    """Content-address every song; an audio file of known size and modification time is not read again."""
    known = {(sample.name, sample.size, sample.modified): sample.audio for sample in _samples_before(folder)}
    for number, song in enumerate(songs):
        _tick(report, number, len(songs), f"Looking at {song.name}")
        try:
            facts = song.path.stat()
            digest = known.get((song.name, facts.st_size, facts.st_mtime_ns)) or storage.hash_file(song.path)
        except OSError as error:
            yield Problem(name=song.name, reason=f"cannot be read ({error.strerror or error})")
            continue
        key = storage.fingerprint(VERSION, digest, config.max_seconds, checkpoint.fingerprint)
        yield _Job(song=song, latents=folder / f"{key}.latents.safetensors", audio=digest, size=facts.st_size,
                   modified=facts.st_mtime_ns)


def _samples_before(folder: Path) -> tuple[SampleInfo, ...]:
    """What the folder's dataset held until now; nothing where there was none, or its manifest cannot be read."""
    if not (folder / MANIFEST).is_file():
        return ()
    try:
        return open_dataset(folder).samples
    except DatasetError as error:
        log.warning("Every song is looked at anew, because %s", error)
        return ()


def _encode_audio(source: ModelSource, checkpoint: Checkpoint, jobs: Sequence[_Job], config: PreprocessConfig,
                  device: torch.device, report: Report) -> dict[Path, str]:
    """First pass: latents of every new song, each written as it is done; returns why others have none, by file."""
    encode: Callable[[Tensor], Tensor] | None = None
    unusable: dict[Path, str] = {}
    for number, job in enumerate(jobs):
        tick = partial(_tick, report, number, 2 * len(jobs), f"Encoding {job.song.name}")
        tick()
        try:
            waveform = audio.decode(job.song.path, max_seconds=config.max_seconds)
            reason = audio.problem(waveform)
        except DatasetError as error:
            reason = str(error)
        if reason is not None:
            unusable[job.latents] = reason
            continue
        encode = encode or source.audio_encoder(checkpoint, device)
        latents_TC = encode_tiled(encode, waveform, config.tile_seconds, tick)
        if not torch.isfinite(latents_TC).all():
            raise DatasetError(f"The VAE gives values that are not finite for {job.song.name!r}. "
                               "The VAE's file or the song is damaged; get it again.")
        storage.write_tensors(job.latents, {"latents": latents_TC})
    return unusable


def _tick(report: Report, step: int, total: int, message: str) -> None:
    report(Progress(stage="preprocess", step=step, total=total, message=message))


def encode_tiled(encode: Callable[[Tensor], Tensor], waveform_CN: Tensor, tile_seconds: float,
                 tick: Callable[[], None] = lambda: None) -> Tensor:
    """Latents [T, 64] of stereo audio at 48 kHz, equal to encoding it all at once.

    The end is padded with silence to a whole frame; tiles overlap by more than the encoder reaches.
    """
    padded = F.pad(waveform_CN, (0, -waveform_CN.shape[1] % SAMPLES_PER_FRAME))
    frames = padded.shape[1] // SAMPLES_PER_FRAME
    tile = max(1, round(tile_seconds * flow.FRAMES_PER_SECOND))
    parts = []
    for start in range(0, frames, tile):
        tick()
        stop = min(start + tile, frames)
        first, last = max(0, start - TILE_OVERLAP), min(frames, stop + TILE_OVERLAP)
        piece = padded[None, :, first * SAMPLES_PER_FRAME:last * SAMPLES_PER_FRAME]
        parts.append(encode(piece)[0, :, start - first:stop - first].T.float().cpu())
    return torch.cat(parts)


def _describe(job: _Job, config: PreprocessConfig) -> SampleInfo:
    song = job.song
    return SampleInfo(
        name=song.name, latents=job.latents.name, frames=_frames(job.latents),
        caption=caption_of(song, config), genre=genre_of(song, config), lyrics=song.lyrics or INSTRUMENTAL,
        language=song.language, bpm=song.bpm, key=song.key, signature=song.signature,
        audio=job.audio, size=job.size, modified=job.modified,
    )


def _frames(latents: Path) -> int:
    """How many latent frames a file of them holds."""
    try:
        return storage.TensorFile(latents).stored["latents"].shape[0]
    except (storage.BadTensorFile, KeyError) as error:
        raise DatasetError(f"{latents} is damaged ({error}). Delete it and run PreprocessAudioFolder again.") from error
