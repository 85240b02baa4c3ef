"""Influence of each trained song on the held-out loss, from gradients of a trained adapter.

A step down the gradient of one song's loss changes the held-out loss by the product of the two gradients (TracIn, arXiv
2002.08484): a song whose gradient points the way of the held-out music's helps, one that points the other way harms.
Every song is measured at the same times, spread evenly over those of the training, with noise of its own.  Each matrix
of the adapter counts alike, whatever the size of its gradients, and so does each song.

The draws form folds, and a score's error is that of a jackknife which leaves out a fold of the song together with one
of the held-out music: so the noise of both enters.
Shapes: S song, R fold of the song, F fold of the held-out music, M trained matrix.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import rng
from ..adapters import file as adapter_file
from ..adapters import registry
from ..adapters.config import AdapterConfig
from ..config import require
from ..dataset.manifest import Dataset
from ..device import explain_out_of_memory, release_memory
from ..errors import AdapterError, ConfigError, TrainingDiverged
from ..io import hashing
from ..io.tensors import BadTensorFile, read_tensors, write_tensors
from ..model import flow_matching
from ..model.checkpoint import Checkpoint, ModelSource
from ..progress import Progress, Report, ignore
from ..runs import influence as records
from ..runs.influence import DRAWS, Influence, SongInfluence
from ..sentence import Sentence
from ..training import resume
from ..training.config import TrainConfig
from ..training.data import Sample, crop_frames, ensure_conditions, grid
from ..training.heldout.passes import Pass
from ..training.loss import pass_losses
from ..training.resolve import Resolved, resolve
from ..training.setup import prepare
from ..training.step import Training

log = logging.getLogger(__name__)

VERSION = 1
"""Part of the files' names; raise it when the same adapter would be measured differently."""
FOLDS = 4
STRENGTH = 0.75
"""Strength at which an adapter is measured, as a step of its training would have met it.  At the end it has learned
what each song has of its own, the harmful part of a song too, so that little of that is left in its gradient."""
MINUTE = 60.0
ADVICE = "Train with a lower chunk_duration, or measure on another device."

Gradient = list[Tensor]
"""One tensor for each trained matrix."""


@dataclass(frozen=True, kw_only=True)
class Products:
    """Products of the gradients of each song with those of the held-out music."""

    dots_SRFM: Tensor
    squares_SRM: Tensor
    """Squared norms of the songs' own gradients."""
    heldout_FM: Tensor
    """Squared norms of those of the held-out music."""


def influence(source: ModelSource, checkpoint: Checkpoint, dataset: Dataset, adapter: Path, folder: Path, *,
              draws: int = DRAWS, device: str = "auto", report: Report = ignore) -> Influence:
    """Measure the influence of every song that an adapter was trained on, most helpful first.

    `adapter` is a file of a training on this dataset with music held out.  `folder` keeps the result, which the same
    call returns at once, and the songs measured so far: stopped by `report`, the same call goes on with the next song.
    AdapterError for a file without settings or of another dataset; ConfigError if nothing was held out.
    """
    require(draws >= FOLDS and draws % FOLDS == 0, f"draws must be a multiple of {FOLDS}, got {draws}.")
    facts = _facts(adapter, checkpoint, dataset)
    key = hashing.fingerprint(VERSION, adapter_file.content_fingerprint(adapter), dataset.fingerprint, draws)
    path = folder / f"{key}.json"
    done = records.read(path)
    if done is not None:
        return done
    report(Progress(stage="load", step=0, total=1,
                    message=Sentence("Loading the decoder of {name}", name=checkpoint.name)))
    settings = _settings(facts, checkpoint, dataset, device)
    try:
        with rng.isolated(settings.device), explain_out_of_memory("measuring the influence of songs", ADVICE):
            ensure_conditions(source, checkpoint, dataset, settings.config, settings.device, report)
            training = prepare(checkpoint, dataset, _adapter(facts), settings)
            training.adapter.load_state_dict(resume.weights_of(adapter, training.adapter.state_dict()))
            products = measure(training, draws, path.with_suffix(".part"), report)
    finally:
        release_memory(settings.device)
    found = Influence(step=adapter_file.open_adapter(adapter).steps, draws=draws,
                      songs=judge([sample.name for sample in training.trained_on], products))
    records.write(path, found)
    path.with_suffix(".part").unlink(missing_ok=True)
    return found


def _facts(adapter: Path, checkpoint: Checkpoint, dataset: Dataset) -> Mapping[str, Any]:
    """Read the facts in an adapter file about its training."""
    adapter_file.open_adapter(adapter)
    facts = adapter_file.facts_of(adapter)
    if not all(isinstance(facts.get(name), dict) for name in ("adapter", "train")):
        raise AdapterError(f"{adapter.name} does not hold the settings of its training. Choose an adapter that "
                           "Side-Step trained.")
    for name, own in (("dataset", dataset.fingerprint), ("checkpoint", checkpoint.fingerprint)):
        if facts.get(name) != own:
            raise AdapterError(f"{adapter.name} was trained on another {name}. Choose the one that it was trained on, "
                               "or train again.")
    return facts


def _adapter(facts: Mapping[str, Any]) -> AdapterConfig:
    return registry.config_from_json(facts["adapter"])


def _settings(facts: Mapping[str, Any], checkpoint: Checkpoint, dataset: Dataset, device: str) -> Resolved:
    """Settings of the adapter's training, without those that only change how it steps."""
    config = TrainConfig.from_json(facts["train"])
    # fp16 would need a scale against underflow, and compiling takes longer than measuring.
    precision = "auto" if config.precision == "fp16" else config.precision
    settings = resolve(replace(config, device=device, precision=precision, compile="off", optimizer="adamw",
                               ema_decay=0.0, lora_plus_ratio=0.0, preserve=0.0), checkpoint, dataset)
    if not (settings.config.heldout_songs or settings.config.heldout_sections):
        raise ConfigError("This adapter was trained with nothing held out, so there is nothing that a song could help "
                          "or harm. Train with heldout_songs 1 or more, then measure again.")
    return settings


def measure(training: Training, draws: int, partial: Path, report: Report = ignore) -> Products:
    """Measure the gradients of all songs; `partial` keeps the songs that are done.

    The adapter is left at the strength that is measured.
    """
    trained, heldout = training.trained_on, training.heldout
    training.adapter.load_state_dict(weakened(training.adapter.state_dict()))
    training.objective.decoder.eval()
    saved = _saved(partial)
    first = len(saved.get("squares", ()))
    report = _counted(report, (len(heldout) + len(trained) - first) * draws)
    against = [_gradient(training, heldout, "held out", _fold(fold, draws), report) for fold in range(FOLDS)]
    dots, squares = [*saved.get("dots", ())], [*saved.get("squares", ())]
    for sample in trained[first:]:
        own = (_gradient(training, [sample], "trained", _fold(fold, draws), report) for fold in range(FOLDS))
        dots_RFM, squares_RM = zip(*((torch.stack([_dots(gradient, other) for other in against]),
                                      _dots(gradient, gradient)) for gradient in own), strict=True)
        dots.append(torch.stack(dots_RFM))
        squares.append(torch.stack(squares_RM))
        write_tensors(partial, {"dots": torch.stack(dots), "squares": torch.stack(squares)})
    return Products(dots_SRFM=torch.stack(dots), squares_SRM=torch.stack(squares),
                    heldout_FM=torch.stack([_dots(gradient, gradient) for gradient in against]))


def weakened(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Scale an adapter's state to the strength that is measured."""
    scaled = tuple(f".{name}" for name in registry.scaled_names())
    return {name: STRENGTH * tensor if name.endswith(scaled) else tensor for name, tensor in tensors.items()}


def _saved(partial: Path) -> Mapping[str, Tensor]:
    """Read the songs measured before; a damaged file is ignored, with a warning."""
    try:
        return read_tensors(partial) if partial.is_file() else {}
    except BadTensorFile as error:
        log.warning("%s is damaged, so its songs are measured again: %s", partial, error)
        return {}


def _fold(fold: int, draws: int) -> dict[int, float]:
    """Draws of a fold, and the place of each in the distribution of times."""
    return {draw: (draw + 0.5) / draws for draw in range(fold, draws, FOLDS)}


def _counted(report: Report, total: int) -> Report:
    """Count the passes of a measurement, and estimate the time that is left."""
    start, done = time.monotonic(), 0

    def counted(progress: Progress) -> None:
        nonlocal done
        done += 1
        left = (time.monotonic() - start) / done * (total - done)
        minutes = f", about {left / MINUTE:.0f} min left" if left >= MINUTE else ""
        report(replace(progress, step=done, total=total, message=f"{progress.message}{minutes}",
                       metrics={"eta_seconds": left}))

    return counted


def _gradient(training: Training, samples: Sequence[Sample], noise: str, shares: Mapping[int, float],
              report: Report) -> Gradient:
    """Gradient of the mean loss of these draws of the samples, with the noise of this name."""
    parameters = training.adapter.parameters
    for sample in samples:
        for one in _passes(training, sample, shares):
            (loss_1,) = pass_losses(training.objective, one, "influence", noise, sample.name, one.noise)
            (loss_1.sum() / (len(samples) * len(shares))).backward()
            report(Progress(stage="estimate", step=0, total=0, message=f"Measuring {sample.name}"))
    found = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    if not torch.stack([gradient.isfinite().all() for gradient in found]).all():
        raise TrainingDiverged(f"The gradient of {samples[0].name} is not finite. Train with precision fp32, or check "
                               "the song.")
    return found


def _passes(training: Training, sample: Sample, shares: Mapping[int, float]) -> Iterable[Pass]:
    config, frames = training.config, len(sample.latents_TC)
    times = flow_matching.times_at(training.objective.timesteps, torch.tensor([*shares.values()])).tolist()
    for draw, at in zip(shares, times, strict=True):
        start = flow_matching.crop_start(frames, crop_frames(frames, config), draw,
                                         rng.seed(config.seed, "influence", sample.name), grid(config))
        yield Pass(sample=sample, start=start, time=at, noise=f"draw {draw}")


def _dots(one: Gradient, other: Gradient) -> Tensor:
    """Product of two gradients, matrix by matrix [M]; float64 on the CPU."""
    products: Tensor = torch.stack([(a.float() * b.float()).sum() for a, b in zip(one, other, strict=True)])
    return products.cpu().double()


def judge(songs: Sequence[str], products: Products) -> tuple[SongInfluence, ...]:
    """Score each song, most helpful first."""
    mean_M = products.squares_SRM.mean((0, 1))
    weights_M = torch.where(mean_M > 0, 1 / mean_M, 0.0)
    norms_S = (products.squares_SRM * weights_M).sum(-1).mean(-1).sqrt()
    norm = (products.heldout_FM * weights_M).sum(-1).mean().sqrt()
    scale_S = (norms_S * norm).clamp(min=torch.finfo(torch.float64).tiny)
    scores_SRF = (products.dots_SRFM * weights_M).sum(-1) / scale_S[:, None, None]
    kept = [[other for other in range(FOLDS) if other != fold] for fold in range(FOLDS)]
    left_out_SJ = torch.stack([scores_SRF[:, rest][:, :, rest].mean((1, 2)) for rest in kept], dim=-1)
    error_S = ((FOLDS - 1) * left_out_SJ.var(-1, correction=0)).sqrt()
    found = [SongInfluence(song=song, score=score, error=error) for song, score, error in
             zip(songs, scores_SRF.mean((1, 2)).tolist(), error_S.tolist(), strict=True)]
    return tuple(sorted(found, key=lambda song: -song.score))
