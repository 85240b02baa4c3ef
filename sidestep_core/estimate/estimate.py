"""Gradient estimate: a score for each module of the decoder, from gradients of the untrained model on a dataset.

Every module gets the same samples at the same times with the same noise, so their scores compare.  Once two halves of
the songs rank the modules alike, more samples would change nothing.  Several processes share the samples: the leader
adds up what all of them measured in the order of one, so the estimate is the same, bit for bit.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import rng
from ..adapters.lora import LoraConfig
from ..adapters.targets import target_modules
from ..dataset.manifest import Dataset
from ..device import explain_out_of_memory, release_memory
from ..errors import ConfigError, TrainingDiverged
from ..io import hashing
from ..io.tensors import BadTensorFile, read_tensors, write_tensors
from ..model.checkpoint import Checkpoint, ModelSource
from ..model.decoder import DecoderGeometry
from ..model.loading import load
from ..progress import Cancelled, Progress, Report, ignore, was_stopped
from ..sentence import Sentence
from ..training import batches, data, memory
from ..training.data import Sample, ensure_conditions
from ..training.loss import Objective, training_loss
from ..training.parallel.ranks import ALONE, END, Order, Ranks
from ..training.resolve import Resolved, resolve
from . import result
from .config import EstimateConfig
from .hooks import gradient_hooks
from .result import STABLE, STRUCTURE_ABOVE, TEXTURE_BELOW, Estimate, ModuleScore
from .scores import ALL_BINS, FOLDS, GradientScorer, Shape, make_scorer
from .statistics import spearman

log = logging.getLogger(__name__)

VERSION = 2
"""Part of the file's name; raise it when the same dataset would be measured differently."""
MIN_SAMPLES, MAX_SAMPLES = 24, 400
"""Bounds of the automatic number of samples."""
DRAWS_PER_SONG = 10
"""Most draws of each song, if the number of samples is automatic."""
CHECK_EVERY, SAVE_EVERY = 12, 48
"""Samples between two checks of the ranking, and between two saves."""
ADVICE = "Lower chunk_duration; precision bf16 halves fp32."


@dataclass(frozen=True, kw_only=True)
class _Measurement:
    """Everything that measuring a sample needs."""

    objective: Objective
    samples: tuple[Sample, ...]
    folds: tuple[int, ...]
    """Fold of each song; empty for fewer songs than folds."""
    modules: tuple[str, ...]
    config: EstimateConfig
    scorer: GradientScorer
    need: memory.Need
    partial: Path
    """File of the samples measured so far."""
    ranks: Ranks

    @property
    def max_samples(self) -> int:
        return self.config.estimate_batches or min(MAX_SAMPLES, max(MIN_SAMPLES, DRAWS_PER_SONG * len(self.samples)))

    def fold(self, step: int) -> int:
        """Return the fold of a sample: that of its song, as two samples of one song are not independent."""
        if not self.folds:
            return step % FOLDS
        return self.folds[batches.sample_index(self.samples, self.config.seed, step)]

    def agreement(self) -> float:
        """Return the rank correlation between the scores of two folds and those of the other two."""
        return spearman(self.scorer.scores((0, 1)).tolist(), self.scorer.scores((2, 3)).tolist())

    def is_done(self) -> bool:
        count = self.scorer.samples
        stable = count >= MIN_SAMPLES and count % CHECK_EVERY == 0 and self.agreement() >= STABLE
        return count >= self.max_samples or stable


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """Features of a sample's gradient by module, and its time."""

    features: Sequence[Tensor]
    t: float


def estimate(source: ModelSource, checkpoint: Checkpoint, dataset: Dataset, config: EstimateConfig, folder: Path, *,
             report: Report = ignore, ranks: Ranks = ALONE) -> Estimate:
    """Score every candidate module on the dataset, with the untrained base model.

    `folder` keeps the finished estimate, which the same call returns at once, and the samples measured so far: when
    `report` raises `Cancelled` (or a BaseException) the last finished sample is saved, and the same call continues from
    there.  TrainingDiverged if a gradient is not finite.  `ranks` is the place of this process among those that share
    the samples; all of them see the same `folder`, and the leader alone reports and writes there.
    """
    path = folder / f"{_key(checkpoint, dataset, config)}.json"
    done = _read_finished(path)
    if done is not None:
        return done
    report(Progress(stage="load", step=0, total=1,
                    message=Sentence("Loading the decoder of {name}", name=checkpoint.name)))
    settings = resolve(config.training(), checkpoint, dataset)
    device = settings.device
    try:
        with rng.isolated(device):
            with explain_out_of_memory("loading the decoder", ADVICE):
                with ranks.leader_first():
                    if ranks.leads:
                        ensure_conditions(source, checkpoint, dataset, settings.config, device, report)
                work = _prepare(checkpoint, dataset, config, settings, path.with_suffix(".part"), ranks)
            with explain_out_of_memory("estimating", f"It needs {work.need}. {ADVICE}"):
                if not ranks.leads:
                    return _follow(work, path)
                _resume(work)
                _measure(work, report)
            found = _build_estimate(work, checkpoint, dataset)
            result.write(path, found)
            ranks.give(Order(step=END))
    finally:
        release_memory(device)
    work.partial.unlink(missing_ok=True)
    return found


def _key(checkpoint: Checkpoint, dataset: Dataset, config: EstimateConfig) -> str:
    """Return the fingerprint of an estimate; devices differ only in rounding, so are left out."""
    settings = {name: value for name, value in config.to_json().items() if name != "device"}
    return hashing.fingerprint(VERSION, checkpoint.fingerprint, dataset.fingerprint, settings)


def _read_finished(path: Path) -> Estimate | None:
    if not path.is_file():
        return None
    try:
        return result.read(path.read_text(encoding="utf-8"), path.name)
    except (ConfigError, UnicodeDecodeError) as error:
        log.warning("%s is damaged and is measured again: %s", path, error)
        return None


def _prepare(checkpoint: Checkpoint, dataset: Dataset, config: EstimateConfig, settings: Resolved,
             partial: Path, ranks: Ranks) -> _Measurement:
    samples, silence_TC = data.load_samples(dataset, settings.config)
    weights = checkpoint.model_weights()
    own = weights.under("decoder.")
    placement = LoraConfig(attention_type=config.attention_type, target_mlp=config.target_mlp)
    modules = tuple(target_modules(placement, DecoderGeometry.from_weights(own).layers))
    need = memory.plan(own, settings.holding, 0, dict.fromkeys(modules, 0), 0.0, samples, settings.config)
    decoder = load(own, replace(settings.holding, offloaded=need.offloaded))
    shapes = [_shape(decoder.get_submodule(name)) for name in modules]
    decoder.recomputed_layers = need.recomputed
    objective = Objective.of(settings, decoder, weights, silence_TC)
    return _Measurement(objective=objective, samples=samples, folds=_folds(samples, config.seed), modules=modules,
                        config=config, need=need, partial=partial, ranks=ranks,
                        scorer=make_scorer(config.score, shapes, settings.device, config.seed))


def _folds(samples: Sequence[Sample], seed: int) -> tuple[int, ...]:
    """Assign songs to folds in the order of their first draws, so that all fill evenly; empty below four songs."""
    if len(samples) < FOLDS:
        return ()
    epoch = batches.draws_per_epoch(samples)
    order = list(dict.fromkeys(batches.sample_index(samples, seed, draw) for draw in range(epoch)))
    return tuple(order.index(song) % FOLDS for song in range(len(samples)))


def _shape(layer: nn.Module) -> Shape:
    assert isinstance(layer, nn.Linear)
    return layer.out_features, layer.in_features


def _resume(work: _Measurement) -> None:
    """Load the samples measured before; a damaged file is ignored, with a warning."""
    if not work.partial.is_file():
        return
    try:
        work.scorer.load_state_dict(read_tensors(work.partial))
        log.info("Continuing after %d samples.", work.scorer.samples)
    except BadTensorFile as error:
        log.warning("%s is damaged, so its samples are measured again: %s", work.partial, error)


def _measure(work: _Measurement, report: Report) -> None:
    """Measure sample after sample until the ranking is stable; save the finished ones if stopped."""
    scorer, measured = work.scorer, deque[_Sample]()
    with _observed(work):
        while not work.is_done():
            if not measured:
                work.ranks.give(Order(step=scorer.samples))
                measured.extend(_measure_next(work, scorer.samples))
            _commit(work, measured.popleft())
            try:
                report(Progress(stage="estimate", step=scorer.samples, total=work.max_samples))
            except BaseException as stop:
                _save_if_stopped(work, stop)
                raise
            if scorer.samples % SAVE_EVERY == 0:
                write_tensors(work.partial, scorer.state_dict())


def _follow(work: _Measurement, path: Path) -> Estimate:
    """Measure this rank's samples for the leader, until it has written the estimate."""
    with _observed(work):
        while (order := work.ranks.take()).step >= 0:
            _measure_next(work, order.step)
    return result.read(path.read_text(encoding="utf-8"), path.name)


def _observed(work: _Measurement) -> AbstractContextManager[None]:
    """Hand the gradient of every module to the scorer inside the block."""
    scorer, numbers = work.scorer, {name: number for number, name in enumerate(work.modules)}
    return gradient_hooks(work.objective.decoder, work.modules, lambda module, gradient_NO, input_NI: scorer.observe(
        numbers[module], gradient_NO, input_NI))


def _measure_next(work: _Measurement, first: int) -> list[_Sample]:
    """Measure the sample `first` and those behind it, one on each rank; return them in this order."""
    objective, ranks = work.objective, work.ranks
    (batch,) = batches.batches(work.samples, objective.silence_TC, objective.config, first + ranks.rank)
    loss = training_loss(objective, batch.to(objective.device, objective.dtype))
    loss.weighted_B.sum().backward()
    features = work.scorer.take()
    if ranks.count == 1:
        return [_Sample(features=features, t=float(loss.t_B[0]))]
    flat = torch.cat([loss.t_B.float(), *(feature.flatten() for feature in features)])
    shapes = work.scorer.feature_shapes()
    sizes = [1, *map(math.prod, shapes)]
    found = []
    for row in ranks.gather(flat).view(ranks.count, -1).to(objective.device):
        t, *parts = row.split(sizes)
        features = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        found.append(_Sample(t=float(t), features=features))
    return found


def _commit(work: _Measurement, sample: _Sample) -> None:
    step = work.scorer.samples
    time_bin = 0 if sample.t < TEXTURE_BELOW else 2 if sample.t > STRUCTURE_ABOVE else 1
    if not work.scorer.commit(work.fold(step), time_bin, sample.features):
        raise TrainingDiverged(f"The gradient of sample {step + 1} is not finite. Use precision fp32, or check the "
                               "dataset.")


def _save_if_stopped(work: _Measurement, stop: BaseException) -> None:
    """Save the finished samples if the run was stopped, not failed; Cancelled then states their number."""
    if not was_stopped(stop):
        return
    write_tensors(work.partial, work.scorer.state_dict())
    if isinstance(stop, Cancelled):
        raise Cancelled(f"Stopped after {work.scorer.samples} of at most {work.max_samples} samples. Run again to "
                        "continue from here.") from stop


def _build_estimate(work: _Measurement, checkpoint: Checkpoint, dataset: Dataset) -> Estimate:
    scorer = work.scorer
    means, errors = scorer.scores(), _standard_errors(scorer)
    bins = [scorer.scores(bins=(time_bin,)) for time_bin in ALL_BINS]
    scores = tuple(
        ModuleScore(module=name, mean=float(means[index]), error=float(errors[index]),
                    bins=tuple(float(scores[index]) for scores in bins), shape=scorer.shapes[index])
        for index, name in enumerate(work.modules)
    )
    return Estimate(scores=scores, score=work.config.score, checkpoint=checkpoint.fingerprint,
                    dataset=dataset.fingerprint, batches=scorer.samples, agreement=work.agreement(),
                    settings=work.config.to_json())


def _standard_errors(scorer: GradientScorer) -> torch.Tensor:
    """Return the standard errors [M] by the jackknife over folds."""
    without = torch.stack([scorer.scores([other for other in range(FOLDS) if other != fold]) for fold in range(FOLDS)])
    return ((without - without.mean(0)).square().sum(0) * (FOLDS - 1) / FOLDS).sqrt()
