"""The training loop: measures, steps, saves, and preserves finished work when interrupted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .. import rng
from ..adapters import file as adapter_file
from ..adapters import formats, registry
from ..adapters.config import AdapterConfig
from ..adapters.file import Adapter
from ..adapters.proof import Loader
from ..dataset.manifest import Dataset
from ..device import explain_out_of_memory, is_out_of_memory, release_memory
from ..io import atomic, locks
from ..model.checkpoint import Checkpoint, ModelSource
from ..progress import Cancelled, Progress, Report, ignore
from ..runs import record
from ..runs.record import NO_ORIGIN, Origin, RunRecord
from . import early_stopping, publish, resume, run_checkpoint
from .config import TrainConfig
from .data import ensure_conditions
from .interruption import PROOF_STRIDE, preserve
from .loss import heldout_loss
from .memory_use import MemoryUse
from .metrics import FILE as METRICS_FILE
from .metrics import LOSS_NAMES, Metrics
from .optim import optimizers
from .pace import Pace
from .publish import Run
from .resolve import Resolved, resolve
from .run_checkpoint import RunState
from .setup import prepare
from .step import StepResult, Training, optimizer_step
from .tensorboard import Board, board, is_heavy, written

log = logging.getLogger(__name__)

RESULT_INVARIANT_SETTINGS = (
    "gradient_checkpointing", "device", "save_every", "save_minutes", "keep_checkpoints", "tensorboard", "log_every",
    "log_heavy_every", "preview_every", "preview_caption", "preview_lyrics", "preview_seconds", "shift",
    "inference_steps",
)
"""Settings of speed, place, display and metadata: the result is the same but for the rounding of another device.  A
stopped run continues with changed ones."""

ADVICE = "Lower chunk_duration, batch_size or rank, switch gradient_checkpointing on; precision bf16 halves fp32."

MakePreview = Callable[[Path | None, int], None]
"""(adapter file, or None for the base model; step) -> makes and keeps a preview of what it sounds like."""


def train(source: ModelSource, checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig, config: TrainConfig,
          folder: Path, target: Path, *, start_from: Path | None = None, resume_from: Path | None = None,
          load: Loader = formats.delta_fn, preview: MakePreview | None = None, report: Report = ignore,
          origin: Origin = NO_ORIGIN) -> Adapter:
    """Train an adapter, prove its file, and publish it at `target` (or the next free name).

    `folder` is the run's own: a finished run is returned at once, a stopped one resumes, and InUse is raised if another
    process trains it.  `resume_from`, a folder checkpoint-step-N of this or another run, is resumed exactly instead;
    `start_from`, an adapter file, gives only the initial weights.  `load` is the loader that proves the saved file.  If
    `report` raises `Cancelled` (or anything that is no Exception rises), the last finished step is saved as a
    checkpoint and as a usable adapter.  `origin` goes into the record of the run.
    """
    settings = resolve(config, checkpoint, dataset)
    own = resume.is_own(folder, resume_from)
    run_identity = identity(checkpoint, dataset, adapter, config, start_from=start_from,
                            resume_from=None if own else resume_from)
    facts = {**run_identity, "variant": checkpoint.variant, "size": checkpoint.size,
             "trigger_word": dataset.trigger_word, "style": dataset.style, "checkpoint_name": checkpoint.name,
             "train": config.to_json(), "resolved": settings.config.to_json(),
             "inference": {"shift": settings.config.shift, "steps": settings.config.inference_steps}}
    run = Run(folder=folder, target=target, facts=facts, load=load)
    with locks.held(folder, "trained"):
        resume.prepare_run_dir(folder, run_identity, resume_from, settings.total_steps)
        done = run_checkpoint.finished(folder)
        if done is not None and _sampling_facts(done.path) == facts["inference"]:
            log.info("This run is already finished: %s", done.path)
            return done
        atomic.require_writable(target.parent)
        registry.require(adapter)
        optimizers.require(config.optimizer)
        with record.kept(folder, _record(checkpoint, dataset, adapter, settings, target), origin):
            return _load_and_run(source, checkpoint, dataset, adapter, settings, run, start_from, preview, report)


def _record(checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig, settings: Resolved,
            target: Path) -> RunRecord:
    """Record of a training that starts now."""
    return RunRecord(name=target.stem, started=time.time(), total=settings.total_steps, songs=len(dataset.samples),
                     minutes=dataset.seconds / 60, model=checkpoint.name,
                     settings={"adapter": adapter.to_json(), "train": settings.config.to_json()})


def _load_and_run(source: ModelSource, checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig,
                  settings: Resolved, run: Run, start_from: Path | None, preview: MakePreview | None,
                  report: Report) -> Adapter:
    """Load the model, restore the state of the run, and train."""
    report(Progress(stage="load", step=0, total=1, message=f"Loading the decoder of {checkpoint.name}"))
    device = settings.device
    try:
        with rng.isolated(device):
            with explain_out_of_memory("loading the decoder", ADVICE):
                ensure_conditions(source, checkpoint, dataset, settings.config, device, report)
                training = prepare(checkpoint, dataset, adapter, settings)
            with explain_out_of_memory("training", f"It needs {training.need}. {ADVICE}"):
                def notify(notice: str) -> None:
                    log.warning(notice)
                    report(Progress(stage="load", step=0, total=1, message=notice, notice=notice))

                state = resume.restore(training, run, start_from, notify)
                for notice in settings.notices:
                    notify(notice)
                if state.step == 0:
                    publish.rehearse(training, run, PROOF_STRIDE)
                return _run(training, run, state, preview, report)
    finally:
        release_memory(device)


def identity(checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig, config: TrainConfig, *,
             start_from: Path | None = None, resume_from: Path | None = None) -> dict[str, Any]:
    """Facts that identify a run: the same identity finds the same run on the disk again."""
    settings = resolve(config, checkpoint, dataset).config.to_json()
    found: dict[str, Any] = {
        "checkpoint": checkpoint.fingerprint, "dataset": dataset.fingerprint, "adapter": adapter.to_json(),
        "train": {name: value for name, value in settings.items() if name not in RESULT_INVARIANT_SETTINGS},
    }
    if start_from is not None:
        found["start_from"] = resume.adapter_fingerprint(start_from)
    if resume_from is not None:
        found["resume_from"] = resume.checkpoint_fingerprint(resume_from)
    return found


def _sampling_facts(adapter: Path) -> object:
    """Shift and steps in the metadata of a finished adapter; if they differ it is written again, without training."""
    return adapter_file.facts_of(adapter).get("inference")


def _run(training: Training, run: Run, state: RunState, preview: MakePreview | None, report: Report) -> Adapter:
    """Run the loop: measure, save, preview when due, and step; preserve finished work on an interruption."""
    config, total = training.config, training.total_steps
    metrics = Metrics(run.folder / METRICS_FILE, after_step=state.step, measured_step=state.heldout_step)
    pace, saved_at = Pace(config, total), time.monotonic()
    memory_use = MemoryUse(training.objective.device, training.need.total)
    with board(run.folder, config, state.step) as shown:
        try:
            while True:
                last = total if state.step == total else config.heldout_every
                if _due(state.step, last, state.heldout_step):
                    with pace.measured("heldout"):
                        state = _measure(training, run, state, metrics, shown, report)
                ended = early_stopping.ended(config, state, total)
                wanted = preview is not None and _due(state.step, config.preview_every, state.previewed_step)
                late = 0 < config.save_minutes * 60 <= time.monotonic() - saved_at
                if state.step > 0 and (late or _due(state.step, config.save_every, 0)):
                    with pace.measured("save"):
                        _save(training, run, state, report)
                    saved_at = time.monotonic()
                if preview is not None and wanted:
                    with pace.measured("preview"):
                        _preview(preview, training, run, state, report)
                    state = replace(state, previewed_step=state.step)
                if ended:
                    _tell(ended, state, total, report)
                    break
                with pace.measured("step"), memory_use.watched():
                    result = _step(training, state, report)
                state = replace(state, step=state.step + 1, scale=result.scale)
                row = metrics.add_step(state.step, result.numbers, result.samples)
                trouble = "" if shown is None else written(
                    partial(shown.add_step, state.step, result.numbers, [t for t, _ in result.samples],
                            result.layer_gradients))
                report(Progress(stage="train", step=state.step, total=total, notice=metrics.failure or trouble,
                                metrics={**row, "eta_seconds": pace.seconds_left(state.step),
                                         "step_seconds": pace.step_seconds, **memory_use.numbers()}))
        except BaseException as end:  # noqa: BLE001 (raised again, saying what is kept)
            raised = preserve(training, run, state, end)
            if raised is end:
                raise
            raise raised from end
    return publish.publish_final(training, run, state, ended)


def _step(training: Training, state: RunState, report: Report) -> StepResult:
    """Take one step.  If memory runs out, repeat the step with all layers recomputed."""
    decoder = training.objective.decoder
    by_layer = is_heavy(training.config, state.step + 1)
    try:
        return optimizer_step(training, state.step, report, scale=state.scale, by_layer=by_layer)
    except RuntimeError as error:
        if not is_out_of_memory(error) or decoder.recomputed_layers == decoder.geometry.layers:
            raise
    # Outside the handler, whose traceback holds the tensors of the step that failed.
    training.optimizer.zero_grad(set_to_none=True)
    decoder.recomputed_layers = decoder.geometry.layers
    release_memory(training.objective.device)
    notice = (f"Out of memory in step {state.step + 1}: from here on every layer is recomputed in the backward pass, "
              "which is slower. The result is the same.")
    log.warning(notice)
    report(Progress(stage="train", step=state.step, total=training.total_steps, notice=notice))
    return optimizer_step(training, state.step, report, scale=state.scale, by_layer=by_layer)


def _tell(ended: str, state: RunState, total: int, report: Report) -> None:
    log.info(ended)
    report(Progress(stage="save", step=state.step, total=total, message=f"{ended} Saving and proving the adapter",
                    notice="" if state.step == total else ended))


def _save(training: Training, run: Run, state: RunState, report: Report) -> Path:
    """Save a checkpoint, and report all that are on the disk now."""
    saved = publish.save_checkpoint(training, run, state)
    steps = tuple(run_checkpoint.step_of(path) for path in run_checkpoint.checkpoints(run.folder))
    report(Progress(stage="train", step=state.step, total=training.total_steps, saved=steps))
    return saved


def _due(step: int, every: int, done_at: int) -> bool:
    return every > 0 and step % every == 0 and step != done_at


def _measure(training: Training, run: Run, state: RunState, metrics: Metrics, shown: Board | None,
             report: Report) -> RunState:
    """Measure the held-out loss of the present step, of the average if there is one; save the best adapter so far."""
    at = Progress(stage="train", step=state.step, total=training.total_steps,
                  message=f"Measuring the {LOSS_NAMES[training.measured_name]}")
    with training.averaged():
        loss = heldout_loss(training.objective, training.measured_on, at, report, measured_on=training.measured_name)
    state = state.with_heldout(loss.mean)
    if training.heldout and state.step > 0 and state.best_step == state.step:
        publish.save_best(training, run, state)
    row = metrics.add_heldout(state.step, loss.mean, loss.by_time, measured_on=training.measured_name)
    trouble = "" if shown is None else written(partial(shown.add_heldout, row, training.measured_name))
    worse = early_stopping.got_worse(training.config, state) if state.step == training.total_steps else ""
    if worse:
        log.warning(worse)
    report(Progress(stage="train", step=state.step, total=training.total_steps, metrics=row,
                    notice=worse or metrics.failure or trouble,
                    measured_on=training.measured_name))
    return state


def _preview(preview: MakePreview, training: Training, run: Run, state: RunState, report: Report) -> None:
    """A preview of the present step.  It changes no bit of the training, and its failure does not end it."""
    device = training.objective.device
    file = None
    if state.step > 0:
        file = publish.usable(_save(training, run, state, report))
    release_memory(device)
    try:
        with rng.isolated(device), torch.no_grad():
            preview(file, state.step)
    except Cancelled:
        raise
    except Exception as error:  # noqa: BLE001 (a preview that fails must not cost hours of training)
        log.warning("The preview at step %d failed.", state.step, exc_info=True)
        message = f"The preview at step {state.step} failed, training goes on: {error}"
        report(Progress(stage="preview", step=state.step, total=training.total_steps, message=message, notice=message))
    finally:
        release_memory(device)
