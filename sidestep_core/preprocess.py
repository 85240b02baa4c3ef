"""From songs to a dataset: latents by the VAE, conditions by the text and condition encoders, cached by content.

Two passes, so that the VAE and the encoders are never on the device together: audio first, then text (which needs the
exact length).  Every song is written when it is done; what exists is never made again.
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
from .conditions import Prompt, TextEncoder, load_condition_encoder
from .config import PreprocessConfig
from .dataset import MANIFEST, Dataset, SampleInfo, open_dataset, write_manifest
from .device import choose_device, choose_dtype, explain_out_of_memory, release_memory
from .errors import DatasetError
from .progress import Cancelled, Progress, Report, ignore
from .songs import Problem, Song

log = logging.getLogger(__name__)

VERSION = 1
"""Part of every cache key; raised when the same song would be encoded differently."""
STYLE = "comfyui"
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
    """How many songs were encoded now; the others were there already."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A song, the file of its finished sample, and a file that holds its latents until then (or since last time)."""

    song: Song
    file: str
    latents: Path
    heard: str
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
    pending = list({job.file: job for job in jobs if not (folder / job.file).is_file()}.values())
    with explain_out_of_memory("preprocessing", "Lower tile_seconds."), torch.inference_mode(False), torch.no_grad():
        try:
            unusable = _encode_audio(source, checkpoint, pending, config, place, report)
            release_memory(place)
            made = [job for job in pending if job.file not in unusable]
            _encode_text(source, checkpoint, made, folder, config, place, report)
        except Cancelled as stop:
            raise Cancelled(f"Stopped. What is encoded so far is kept in {folder}; run again to go on.") from stop
        finally:
            release_memory(place)
        problems = tuple(item if isinstance(item, Problem) else Problem(name=item.song.name, reason=unusable[item.file])
                         for item in plan if isinstance(item, Problem) or item.file in unusable)
        samples = tuple(_describe(job, folder) for job in jobs if job.file not in unusable)
        if not samples:
            raise DatasetError("No song can be used. " + "; ".join(f"{p.name}: {p.reason}" for p in problems[:5]))
    dataset = Dataset(folder=folder, checkpoint=checkpoint.fingerprint, style=STYLE, tag=config.trigger_word,
                      samples=samples)
    if not dataset.silence.is_file():
        longest = max(sample.frames for sample in samples)
        storage.write_tensors(dataset.silence, {"silence": source.silence_latent(longest).float()})
    write_manifest(dataset)
    for job in jobs:
        (folder / f"{job.heard}.latents").unlink(missing_ok=True)
    for problem in problems:
        log.warning("%s is left out: %s", problem.name, problem.reason)
    return Preprocessed(dataset=dataset, problems=problems, made=len(made))


def caption_of(song: Song, config: PreprocessConfig) -> str:
    """The caption with the trigger word in its place."""
    tag = (song.tag or config.trigger_word).strip()
    caption = (song.caption or song.genre).strip()
    if not tag:
        return caption
    if config.trigger_position == "replace" or not caption:
        return tag
    return f"{tag}, {caption}" if config.trigger_position == "prepend" else f"{caption}, {tag}"


def prompt_of(song: Song, config: PreprocessConfig, frames: int) -> Prompt:
    """What a person would type into the host's text node to get this song."""
    return Prompt(caption=caption_of(song, config), lyrics=song.lyrics or INSTRUMENTAL, language=song.language,
                  bpm=song.bpm, key=song.key, signature=song.signature, seconds=frames / flow.FRAMES_PER_SECOND)


def _plan(checkpoint: Checkpoint, songs: Sequence[Song], folder: Path, config: PreprocessConfig,
          report: Report) -> Iterator[_Job | Problem]:
    """Content-address every song; an audio file of known size and modification time is not read again."""
    before = _samples_before(folder)
    known = {(sample.name, sample.size, sample.modified): sample.audio for sample in before}
    latents = {sample.heard: folder / sample.file for sample in before if (folder / sample.file).is_file()}
    for number, song in enumerate(songs):
        _tick(report, number, len(songs), f"Looking at {song.name}")
        try:
            facts = song.path.stat()
            digest = known.get((song.name, facts.st_size, facts.st_mtime_ns)) or storage.hash_file(song.path)
        except OSError as error:
            yield Problem(name=song.name, reason=f"cannot be read ({error.strerror or error})")
            continue
        # The length, and with it the duration in the prompt, follows from the audio and max_seconds.
        prompt = prompt_of(song, config, 0)
        heard = storage.fingerprint(VERSION, digest, config.max_seconds, checkpoint.fingerprint)
        read = storage.fingerprint(heard, STYLE, prompt.caption_text, prompt.lyrics_text)
        yield _Job(song=song, file=f"{read}.safetensors", latents=latents.get(heard, folder / f"{heard}.latents"),
                   heard=heard, audio=digest, size=facts.st_size, modified=facts.st_mtime_ns)


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
                  device: torch.device, report: Report) -> dict[str, str]:
    """First pass: latents of every pending song, each written as it is done; returns why others have none, by file."""
    encode: Callable[[Tensor], Tensor] | None = None
    unusable: dict[str, str] = {}
    for number, job in enumerate(jobs):
        tick = partial(_tick, report, number, 2 * len(jobs), f"Encoding {job.song.name}")
        tick()
        if not job.latents.is_file():
            try:
                waveform = audio.decode(job.song.path, max_seconds=config.max_seconds)
                reason = audio.problem(waveform)
            except DatasetError as error:
                reason = str(error)
            if reason is not None:
                unusable[job.file] = reason
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


def _encode_text(source: ModelSource, checkpoint: Checkpoint, jobs: Sequence[_Job], folder: Path,
                 config: PreprocessConfig, device: torch.device, report: Report) -> None:
    """Second pass: the condition of every pending song, and with it the finished sample."""
    if not jobs:
        return
    text_encoder = TextEncoder(checkpoint.text_encoder_weights(), source.tokenizer_folder, device)
    dtype = choose_dtype("auto", device)
    encoder = load_condition_encoder(checkpoint.model_weights().under("encoder."), dtype, device)
    for number, job in enumerate(jobs):
        _tick(report, len(jobs) + number, 2 * len(jobs), f"Reading the words of {job.song.name}")
        latents_TC = storage.read_tensors(job.latents)["latents"]
        prompt = prompt_of(job.song, config, latents_TC.shape[0])
        timbre_TC = source.silence_latent(latents_TC.shape[0])
        condition_BSD = encoder(text_encoder.caption(prompt).to(dtype), text_encoder.lyrics(prompt).to(dtype),
                                timbre_TC[None].to(device, dtype))
        storage.write_tensors(folder / job.file, {"latents": latents_TC, "condition": condition_BSD[0].float()})


def _describe(job: _Job, folder: Path) -> SampleInfo:
    frames = storage.TensorFile(folder / job.file).stored["latents"].shape[0]
    return SampleInfo(name=job.song.name, file=job.file, frames=frames, audio=job.audio, heard=job.heard,
                      size=job.size, modified=job.modified)
