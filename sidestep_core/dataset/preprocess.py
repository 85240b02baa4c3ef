"""Preprocessing of songs into a dataset: latents by the VAE, conditions by the text and condition encoders.

Two passes, so that the VAE and the encoders are never on the device together: audio first (latents.py), then text
(conditions.py), which needs the exact length.  Files are named by content; what exists is never encoded again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..device import choose_device, explain_out_of_memory, release_memory
from ..errors import DatasetError
from ..io import atomic, hashing, locks
from ..io.tensors import BadTensorFile, TensorFile
from ..model.checkpoint import Checkpoint, ModelSource
from ..progress import Cancelled, Progress, Report, ignore
from ..songs.song import Problem, Song, none_left
from . import tensor_file
from .captions import caption_of, captions_of, genre_of, lyrics_of, own_trigger_word
from .conditions import encode_conditions, missing
from .config import PreprocessConfig
from .latents import Recording, Stamp, encode_recordings
from .manifest import MANIFEST, Dataset, open_dataset, write_manifest
from .sample_info import SampleInfo
from .shard import Shard

log = logging.getLogger(__name__)

BYTES_PER_FRAME = 64 * 4


@dataclass(frozen=True, kw_only=True)
class Preprocessed:
    """The dataset, and the songs that were left out, with reasons."""

    dataset: Dataset
    problems: tuple[Problem, ...]
    made: int
    """Number of songs with newly encoded files; the others were complete already."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A song, the section of its audio file to encode, and the file of the latents."""

    song: Song
    recording: Recording
    latents: Path


def preprocess(source: ModelSource, checkpoint: Checkpoint, songs: Sequence[Song], folder: Path,
               config: PreprocessConfig, *, genre_ratio: float = 0.0, device: str = "auto",
               shard: Shard | None = None, report: Report = ignore) -> Preprocessed:
    """Encode new and changed songs, and write the dataset's manifest.

    A song that cannot be used is reported and left out; DatasetError if none is left, or nothing can be written.
    `genre_ratio` comes from the songs' dataset.json, for trainings that leave it to the dataset.  Of a shard, only its
    share of the songs is encoded; it may be left without any, as the others are not.
    """
    target = choose_device(device)
    if shard:
        share = shard.share()
        songs = [song for song in songs if song.name in share]
    with (locks.held(folder, "encoded"), explain_interruption(folder),
          explain_out_of_memory("preprocessing", "Lower tile_seconds."), torch.inference_mode(False), torch.no_grad()):
        before = _existing_dataset(folder, shard)
        plan = list(_plan(checkpoint, songs, folder, before, config, report))
        jobs = [job for job in plan if isinstance(job, _Job)]
        new_audio = {job.latents: job.recording for job in jobs if not job.latents.is_file()}
        try:
            unusable = encode_recordings(source, checkpoint, list(new_audio.values()), folder, config.tile_seconds,
                                         target, report)
            release_memory(target)
            problems = tuple(_problems(plan, unusable))
            known = {sample.latents: sample.frames for sample in before.samples} if before else {}
            samples = tuple(_describe(job, config, known) for job in jobs if job.latents.name not in unusable)
            dataset = Dataset(folder=folder, checkpoint=checkpoint.fingerprint, style=config.conditioning,
                              trigger_word=config.trigger_word, samples=samples, genre_ratio=genre_ratio,
                              shard=shard and shard.without(problem.name for problem in problems))
            prompts = {dataset.condition(prompt): (sample.name, prompt) for sample in samples
                       for prompt in sample.prompts()}
            new_conditions = missing(prompts)
            encode_conditions(source, checkpoint, new_conditions, dataset.style, target,
                              lambda number, total, message: _tick(report, len(songs) + number, len(songs) + total,
                                                                   message))
        finally:
            release_memory(target)
        if not samples and not shard:
            raise none_left("No song can be used", problems)
        if samples and not dataset.silence.is_file():
            longest = max(sample.frames for sample in samples)
            tensor_file.write(dataset.silence, "silence", source.silence_latent(longest))
        if dataset != before:
            write_manifest(dataset)
    for problem in problems:
        log.warning("%s is left out: %s", problem.name, problem.reason)
    made = sum(dataset.latents(sample) in new_audio or any(dataset.condition(prompt) in new_conditions
                                                           for prompt in sample.prompts()) for sample in samples)
    return Preprocessed(dataset=dataset, problems=problems, made=made)


@contextlib.contextmanager
def explain_interruption(folder: Path) -> Iterator[None]:
    """Add to a stop or a full disk that finished work is kept."""
    try:
        yield
    except Cancelled as stop:
        raise Cancelled(f"Stopped. What is encoded so far is kept in {folder}. Preprocess the songs again to "
                        "continue.") from stop
    except atomic.CannotWrite as error:
        raise DatasetError(f"{error} What is encoded so far is kept. Preprocess the songs again to continue."
                           ) from error


def _plan(checkpoint: Checkpoint, songs: Sequence[Song], folder: Path, before: Dataset | None,
          config: PreprocessConfig, report: Report) -> Iterator[_Job | Problem]:
    """Content-address every song; an audio file of unchanged size and modification time is not read again."""
    known = {(sample.name, Stamp(size=sample.size, modified=sample.modified)): sample.audio
             for sample in (before.samples if before else ())}
    # Sections of one file are songs of their own.
    hashed: dict[tuple[Path, Stamp], str] = {}
    for number, song in enumerate(songs):
        def tick(number: int = number, song: Song = song) -> None:
            _tick(report, number, len(songs), f"Looking at {song.name}")

        tick()
        try:
            stamp = Stamp.of(song.path)
            digest = known.get((song.name, stamp)) or hashed.get((song.path, stamp))
            digest = hashed[song.path, stamp] = digest or hashing.hash_file(song.path, tick)
        except OSError as error:
            yield Problem(name=song.name, reason=f"cannot be read ({error.strerror or error})")
            continue
        lengths = [length for length in (song.stop - song.start, config.max_seconds) if length > 0]
        recording = Recording(name=song.name, path=song.path, stamp=stamp, audio=digest, start=float(song.start),
                              seconds=float(min(lengths, default=0)), normalise=config.normalise)
        yield _Job(song=song, recording=recording, latents=folder / recording.latents(checkpoint))


def _problems(plan: Sequence[_Job | Problem], unusable: Mapping[str, str]) -> Iterator[Problem]:
    """Problems of songs that are left out, in the order of the plan."""
    for item in plan:
        if isinstance(item, Problem):
            yield item
        elif item.latents.name in unusable:
            yield Problem(name=item.song.name, reason=unusable[item.latents.name])


def _existing_dataset(folder: Path, shard: Shard | None) -> Dataset | None:
    """Dataset in the folder so far; None if there is none, or its manifest cannot be read.

    DatasetError where a shard would take the place of another one, or of a whole dataset.
    """
    if not (folder / MANIFEST).is_file():
        return None
    try:
        found = open_dataset(folder)
    except DatasetError as error:
        log.warning("Every song is read again, because %s", error)
        return None
    if shard and str(shard) != str(found.shard):
        raise DatasetError(f"{folder} holds {found.shard or 'a whole dataset'}, which {shard} would replace. Give each "
                           "shard a folder of its own.")
    return found


def _tick(report: Report, step: int, total: int, message: str) -> None:
    report(Progress(stage="preprocess", step=step, total=total, message=message))


def _describe(job: _Job, config: PreprocessConfig, known: Mapping[str, int]) -> SampleInfo:
    song, recording = job.song, job.recording
    return SampleInfo(
        name=song.name, latents=job.latents.name, frames=_frames(job.latents, known),
        caption=caption_of(song, config), captions=captions_of(song, config), genre=genre_of(song, config),
        lyrics=lyrics_of(song), language=song.language, bpm=song.bpm, key=song.key, signature=song.signature,
        trigger_word=own_trigger_word(song, config),
        audio=recording.audio, size=recording.stamp.size, modified=recording.stamp.modified, repeats=song.repeats,
    )


def _frames(latents: Path, known: Mapping[str, int]) -> int:
    """Number of latent frames in a file: that of the manifest, if the file is large enough for it."""
    frames = known.get(latents.name, 0)
    if frames and latents.stat().st_size > frames * BYTES_PER_FRAME:
        return frames
    try:
        return TensorFile(latents).stored["latents"].shape[0]
    except (BadTensorFile, KeyError) as error:
        raise DatasetError(f"{latents} is damaged ({error}). Delete it. Preprocess the songs again.") from error
