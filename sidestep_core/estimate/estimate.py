"""Where the gradient of a dataset lies: a score for each module of the decoder, without training anything.

Every module sees the same samples at the same times with the same noise, so their scores compare.  When half of the
songs ranks the modules as the other half does, more samples would change nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .. import rng
from ..adapters.lora import LoraConfig
from ..adapters.targets import target_modules
from ..dataset.manifest import Dataset
from ..device import choose_device, choose_dtype, explain_out_of_memory, release_memory
from ..errors import ConfigError, TrainingDiverged
from ..io import hashing
from ..io.tensors import BadTensorFile, read_tensors, write_tensors
from ..model.checkpoint import Checkpoint, ModelSource
from ..model.decoder import load_decoder
from ..progress import Cancelled, Progress, Report, ignore, was_stopped
from ..training import batches, data, memory
from ..training.data import Sample, ensure_conditions
from ..training.loss import Objective, training_loss
from . import result
from .config import EstimateConfig
from .hooks import probing
from .result import STRUCTURE_ABOVE, TEXTURE_BELOW, Estimate, ModuleScore, spearman
from .scores import EVERY_SPAN, QUARTERS, GradientSums, Shape, sums_of

log = logging.getLogger(__name__)

VERSION = 1
"""Part of the file's name; raised when the same dataset would be measured differently."""
STABLE = 0.95
FEWEST, MOST = 24, 400
"""Samples that are measured at least, and at most, where their number is automatic."""
VISITS = 10
"""Samples of each song at most, where their number is automatic."""
JUDGE_EVERY, SAVE_EVERY = 12, 48
"""Samples between two looks at the ranking, and between two saves."""
ADVICE = "Lower chunk_duration; precision bf16 halves fp32."


@dataclass(frozen=True, kw_only=True)
class _Measurement:
    """Everything a sample needs."""

    objective: Objective
    samples: tuple[Sample, ...]
    quarters: tuple[int, ...]
    """Where each song is counted; none where the songs are too few to be kept apart."""
    modules: tuple[str, ...]
    config: EstimateConfig
    sums: GradientSums
    need: memory.Need
    part: Path

    @property
    def most(self) -> int:
        return self.config.estimate_batches or min(MOST, max(FEWEST, VISITS * len(self.samples)))

    def quarter(self, step: int) -> int:
        """Where a sample is counted: by its song, as two samples of one song share what other songs do not have."""
        if not self.quarters:
            return step % QUARTERS
        return self.quarters[batches.song_of_visit(self.samples, self.config.seed, step)]

    def agreement(self) -> float:
        """Rank correlation between the scores by two quarters and by the other two."""
        return spearman(self.sums.scores((0, 1)).tolist(), self.sums.scores((2, 3)).tolist())

    def is_done(self) -> bool:
        count = self.sums.samples
        return count >= self.most or (count >= FEWEST and count % JUDGE_EVERY == 0 and self.agreement() >= STABLE)


def estimate(source: ModelSource, checkpoint: Checkpoint, dataset: Dataset, config: EstimateConfig, folder: Path, *,
             report: Report = ignore) -> Estimate:
    """Score every candidate module on the dataset, with the base model as it is.

    `folder` keeps the finished estimate, which is returned at once when it is asked for again, and what is measured so
    far: when `report` raises `Cancelled` (or what is no Exception) the last finished sample is kept, and the same call
    goes on from there.  TrainingDiverged when a gradient is not finite.
    """
    path = folder / f"{_key(checkpoint, dataset, config)}.json"
    done = _finished(path)
    if done is not None:
        return done
    report(Progress(stage="load", step=0, total=1, message=f"Loading the decoder of {checkpoint.name}"))
    device = choose_device(config.device)
    try:
        with rng.isolated(device):
            with explain_out_of_memory("loading the decoder", ADVICE):
                ensure_conditions(source, checkpoint, dataset, data.resolved(config.training(), dataset), device,
                                  report)
                work = _prepare(checkpoint, dataset, config, device, path.with_suffix(".part"))
            _resume(work)
            with explain_out_of_memory("estimating", f"It needs {work.need}. {ADVICE}"):
                _measure(work, report)
            found = _concluded(work, checkpoint, dataset)
    finally:
        release_memory(device)
    result.write(path, found)
    work.part.unlink(missing_ok=True)
    return found


def _key(checkpoint: Checkpoint, dataset: Dataset, config: EstimateConfig) -> str:
    """What makes an estimate this one; devices differ only in how they round."""
    settings = {name: value for name, value in config.to_json().items() if name != "device"}
    return hashing.fingerprint(VERSION, checkpoint.fingerprint, dataset.fingerprint, settings)


def _finished(path: Path) -> Estimate | None:
    if not path.is_file():
        return None
    try:
        return result.read(path.read_text(encoding="utf-8"), path.name)
    except (ConfigError, UnicodeDecodeError) as error:
        log.warning("%s is damaged and is measured anew: %s", path, error)
        return None


def _prepare(checkpoint: Checkpoint, dataset: Dataset, config: EstimateConfig, device: torch.device,
             part: Path) -> _Measurement:
    training = data.resolved(config.training(), dataset)
    dtype = choose_dtype(config.precision, device)
    samples, silence_TC = data.load_samples(dataset, training)
    weights = checkpoint.model_weights()
    decoder = load_decoder(weights.under("decoder."), dtype, device)
    placement = LoraConfig(attention_type=config.attention_type, target_mlp=config.target_mlp)
    modules = tuple(target_modules(placement, decoder.geometry.layers))
    shapes = [_shape(decoder.get_submodule(name)) for name in modules]
    need = memory.plan(decoder, (), modules, 0.0, samples, training)
    decoder.recomputed_layers = need.recomputed
    objective = Objective.of(checkpoint, training, decoder, weights, silence_TC, device, dtype)
    return _Measurement(objective=objective, samples=samples, quarters=_quarters(samples, config.seed),
                        modules=modules, config=config, need=need, part=part,
                        sums=sums_of(config.score, shapes, device, config.seed))


def _quarters(samples: Sequence[Sample], seed: int) -> tuple[int, ...]:
    """Of each song, by turns in the order of the first visits, so that all fill alike; none below four songs."""
    if len(samples) < QUARTERS:
        return ()
    epoch = batches.visits_per_epoch(samples)
    order = list(dict.fromkeys(batches.song_of_visit(samples, seed, visit) for visit in range(epoch)))
    return tuple(order.index(song) % QUARTERS for song in range(len(samples)))


def _shape(layer: nn.Module) -> Shape:
    assert isinstance(layer, nn.Linear)
    return layer.out_features, layer.in_features


def _resume(work: _Measurement) -> None:
    """Go on from what was measured before; a damaged file of it is left behind, with a warning."""
    if not work.part.is_file():
        return
    try:
        work.sums.load(read_tensors(work.part))
        log.info("Continuing after %d samples.", work.sums.samples)
    except BadTensorFile as error:
        log.warning("%s is damaged, so its samples are measured again: %s", work.part, error)


def _measure(work: _Measurement, report: Report) -> None:
    """Sample after sample until the ranking is stable; what is measured is kept when it is stopped."""
    sums = work.sums
    numbers = {name: number for number, name in enumerate(work.modules)}
    with probing(work.objective.decoder, work.modules,
                 lambda module, gradient_NO, input_NI: sums.listen(numbers[module], gradient_NO, input_NI)):
        while not work.is_done():
            _measure_sample(work)
            try:
                report(Progress(stage="estimate", step=sums.samples, total=work.most))
            except BaseException as stop:
                _keep(work, stop)
                raise
            if sums.samples % SAVE_EVERY == 0:
                write_tensors(work.part, sums.tensors())


def _measure_sample(work: _Measurement) -> None:
    objective, step = work.objective, work.sums.samples
    (batch,) = batches.batches(work.samples, objective.silence_TC, objective.config, step)
    loss = training_loss(objective, batch.to(objective.device, objective.dtype))
    loss.weighted_B.sum().backward()
    t = float(loss.t_B[0])
    span = 0 if t < TEXTURE_BELOW else 2 if t > STRUCTURE_ABOVE else 1
    if not work.sums.commit(work.quarter(step), span):
        raise TrainingDiverged(f"The gradient of sample {step + 1} is not finite. Use precision fp32, or check the "
                               "dataset.")


def _keep(work: _Measurement, stop: BaseException) -> None:
    """Keep the finished samples if someone stopped us; Cancelled is told how many they are."""
    if not was_stopped(stop):
        return
    write_tensors(work.part, work.sums.tensors())
    if isinstance(stop, Cancelled):
        raise Cancelled(f"Stopped after {work.sums.samples} of at most {work.most} samples. Run again to continue "
                        "from here.") from stop


def _concluded(work: _Measurement, checkpoint: Checkpoint, dataset: Dataset) -> Estimate:
    sums = work.sums
    means, errors = sums.scores(), _errors(sums)
    spans = [sums.scores(spans=(span,)) for span in EVERY_SPAN]
    scores = tuple(
        ModuleScore(module=name, mean=float(means[index]), error=float(errors[index]),
                    bins=tuple(float(span[index]) for span in spans), shape=sums.shapes[index])
        for index, name in enumerate(work.modules)
    )
    return Estimate(scores=scores, score=work.config.score, checkpoint=checkpoint.fingerprint,
                    dataset=dataset.fingerprint, batches=sums.samples, agreement=work.agreement(),
                    settings=work.config.to_json())


def _errors(sums: GradientSums) -> torch.Tensor:
    """Standard errors [M], by how the scores change without each of the quarters (jackknife)."""
    without = torch.stack([sums.scores([other for other in range(QUARTERS) if other != quarter])
                           for quarter in range(QUARTERS)])
    return ((without - without.mean(0)).square().sum(0) * (QUARTERS - 1) / QUARTERS).sqrt()
