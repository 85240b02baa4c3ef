"""The loop of a training: measures, steps, saves, and preserves finished work when interrupted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from .. import rng
from ..adapters.file import Adapter
from ..device import release_memory
from ..errors import SideStepError
from ..io import atomic
from ..progress import Cancelled, Progress, Report
from ..runs import by_heart
from ..runs.by_heart import Watched
from ..sentence import Sentence
from . import early_stopping, publish, run_checkpoint
from .controls import Controls, Request
from .early_stopping import End
from .footprint.memory_use import MemoryUse
from .footprint.step_down import lowered, with_less_memory
from .footprint.uncompiled import without_failing_compiler
from .heldout import passes
from .heldout.watch import judge
from .interruption import PROOF_STRIDE, preserve
from .loss import falls, heldout_loss
from .metrics import FILE as METRICS_FILE
from .metrics import MeasuredOn, Metrics
from .pace import Pace
from .parallel.ranks import Order
from .publish import Run
from .run_checkpoint import PASSES, RunState
from .step import StepResult, Training, optimizer_step
from .tensorboard import FOLDER as BOARD_FOLDER
from .tensorboard import Board, board, is_heavy, written

log = logging.getLogger(__name__)

MEASURING: Mapping[MeasuredOn, Sentence] = {"held_out": Sentence("Measuring the held-out loss"),
                                            "trained": Sentence("Measuring the loss of the trained songs")}
WATCHING = Sentence("Looking for songs that are learned by heart")

Result = TypeVar("Result")
MakePreview = Callable[[Path | None, int], None]
"""(adapter file, or None for the base model; step) -> makes and keeps a preview of what it sounds like."""


def run_steps(training: Training, run: Run, state: RunState, *, controls: Controls, pace: Pace,
              preview: MakePreview | None, report: Report) -> Adapter | None:
    """Step, and between two steps measure, save and preview what is due or requested, until the run ends.

    None if the run is to pause or to give way: then its last step is saved.  Finished work is preserved on an
    interruption.
    """
    config, total = training.config, training.total_steps
    metrics = Metrics(run.folder / METRICS_FILE, after_step=state.step, measured_step=state.heldout_step)
    saved_at, memory_use = time.monotonic(), MemoryUse(training.objective.device, training.need.total)
    atomic.write_json(run.folder / PASSES, [*passes.described(training.passes, config)])
    by_heart.forget_after(run.folder, state.step)
    with board(run.log_dir or run.folder / BOARD_FOLDER, config, state.step) as shown:
        try:
            while True:
                asked = controls.drain() if state.step else ()
                if _is_measured(training, run, state, asked):
                    with pace.measured("heldout"):
                        state = _measure(training, run, state, asked, metrics, shown, report)
                end = early_stopping.end(config, state, total, requested="finish" in asked)
                late = 0 < config.save_minutes * 60 <= time.monotonic() - saved_at
                if state.step > 0 and (late or _due(state.step, config.save_every, 0)):
                    with pace.measured("save"):
                        _save(training, run, state, report)
                    saved_at = time.monotonic()
                if "save" in asked:
                    _save_now(training, run, state, report)
                state = _previewed(preview, training, run, state, asked, pace, report)
                if end is not None:
                    if controls.end():
                        _report_end(end, state, total, report)
                        break
                    continue  # something was requested meanwhile
                if {"give_way", "pause"} & {*asked} and _can_leave(training, run, state, metrics, controls, report):
                    return None
                training.ranks.give(Order(step=state.step, scale=state.scale))
                with pace.measured("step"), memory_use.watched():
                    result = take_step(training, state, report)
                state = replace(state, step=state.step + 1, scale=result.scale, lowered=lowered(training))
                extra = {"eta_seconds": pace.seconds_left(state.step), "step_seconds": pace.step_seconds,
                         **memory_use.numbers()}
                _record(result, state, total, metrics, shown, extra, report)
        except BaseException as error:  # noqa: BLE001 (raised again, saying what is kept)
            raised = preserve(training, run, state, error)
            if raised is error:
                raise
            raise raised from error
    return publish.publish_final(training, run, state, end)


def _is_measured(training: Training, run: Run, state: RunState, asked: tuple[Request, ...]) -> bool:
    """Return True if the present step is to be measured: when due, and at the end.

    A run that is finished by hand may be continued from its last step: it is saved before a measurement that is not
    due, so that the rest does not depend on that.
    """
    if _due(state.step, state.step if state.step == training.total_steps else training.config.heldout_every,
            state.heldout_step):
        return True
    if "finish" not in asked or state.heldout_step == state.step:
        return False
    publish.save_checkpoint(training, run, state)
    return True


def _previewed(preview: MakePreview | None, training: Training, run: Run, state: RunState,
               asked: tuple[Request, ...], pace: Pace, report: Report) -> RunState:
    """Make the preview that is due or requested, if there is one."""
    due = _due(state.step, training.config.preview_every, state.previewed_step)
    if preview is None or not (due or "preview" in asked):
        return state
    with pace.measured("preview"):
        _preview(preview, training, run, state, report)
    return replace(state, previewed_step=state.step)


def _record(result: StepResult, state: RunState, total: int, metrics: Metrics, shown: Board | None,
            extra: Mapping[str, float], report: Report) -> None:
    """Write and report the numbers of a finished step; `extra` numbers are only reported."""
    row = metrics.add_step(state.step, result.numbers, result.samples)
    trouble = "" if shown is None else written(
        partial(shown.add_step, state.step, result.numbers, [t for t, _ in result.samples], result.layer_gradients))
    report(Progress(stage="train", step=state.step, total=total, notice=metrics.failure or trouble,
                    metrics={**row, **extra}))


def _save_now(training: Training, run: Run, state: RunState, report: Report) -> None:
    """Save a checkpoint and publish its adapter on request.  A failure does not end the training."""
    at = Progress(stage="save", step=state.step, total=training.total_steps)
    report(replace(at, message=Sentence("Saving")))
    try:
        saved = publish.publish_stopped(training, run, state, PROOF_STRIDE)
        _report_saved(run, state, training.total_steps, report)
        message: str = Sentence("{file} is in your LoRA list.", file=saved.path.name)
    except Cancelled:
        raise
    except Exception as error:  # noqa: BLE001 (a request that fails must not cost hours of training)
        log.warning("Step %d could not be saved on request.", state.step, exc_info=True)
        message = f"The adapter could not be saved just now, training goes on: {error}"
    report(replace(at, message=message, notice=message))


def _can_leave(training: Training, run: Run, state: RunState, metrics: Metrics, controls: Controls,
               report: Report) -> bool:
    """Save the present step, to continue from it.  False, with a notice, if that fails: then training goes on."""
    try:
        metrics.flush()
        if metrics.failure:
            raise SideStepError(metrics.failure)
        _save(training, run, state, report)
    except Cancelled:
        raise
    except Exception as error:  # noqa: BLE001 (a request that fails must not cost hours of training)
        log.warning("Step %d could not be saved, so the training does not pause.", state.step, exc_info=True)
        controls.withdraw("pause")
        controls.withdraw("give_way")
        message = f"The training cannot pause, as its step could not be saved: {error}"
        report(Progress(stage="save", step=state.step, total=training.total_steps, message=message, notice=message))
        return False
    return True


def take_step(training: Training, state: RunState, report: Report) -> StepResult:
    """Take one step, in less memory if that runs out, and uncompiled if the compiler fails."""
    by_layer = is_heavy(training.config, state.step + 1)
    step = partial(optimizer_step, training, state.step, report, scale=state.scale, by_layer=by_layer)

    def repeated(work: Callable[[], Result]) -> Result:
        return with_less_memory(lambda: without_failing_compiler(work, training, state.step, report), training,
                                state.step, report)

    return step(in_memory=repeated) if training.ranks.count > 1 else repeated(step)


def _report_end(end: End, state: RunState, total: int, report: Report) -> None:
    log.info(end.reason)
    message = Sentence.joined((end.reason, Sentence("Saving and proving the adapter")))
    report(Progress(stage="save", step=state.step, total=total, message=message,
                    notice="" if state.step == total else end.reason))


def _save(training: Training, run: Run, state: RunState, report: Report) -> Path:
    """Save a checkpoint, and report all that are on the disk now."""
    saved = publish.save_checkpoint(training, run, state)
    _report_saved(run, state, training.total_steps, report)
    return saved


def _report_saved(run: Run, state: RunState, total: int, report: Report) -> None:
    steps = tuple(run_checkpoint.step_of(path) for path in run_checkpoint.checkpoints(run.folder))
    report(Progress(stage="train", step=state.step, total=total, saved=steps))


def _due(step: int, every: int, done_at: int) -> bool:
    return every > 0 and step % every == 0 and step != done_at


def _measure(training: Training, run: Run, state: RunState, asked: tuple[Request, ...], metrics: Metrics,
             shown: Board | None, report: Report) -> RunState:
    """Measure the held-out loss of the present step, of the average if there is one; save the best adapter so far."""
    at = Progress(stage="train", step=state.step, total=training.total_steps,
                  message=MEASURING[training.measured_name])
    with training.averaged():
        loss = with_less_memory(
            lambda: heldout_loss(training.objective, training.passes, at, report, measured_on=training.measured_name),
            training, state.step, report)
    state = state.with_heldout(loss.mean, loss.losses)
    if training.heldout and state.step > 0 and state.best_step == state.step:
        publish.save_best(training, run, state)
    error = {} if state.heldout_error is None else {"heldout_error": state.heldout_error}
    learned = _watch(training, run, state, report, requested="finish" in asked)
    losses = [(one.time, value) for one, value in zip(training.passes, loss.losses, strict=True)]
    row = metrics.add_heldout(state.step, {"heldout": loss.mean, **error, "best_step": state.best_step, **learned},
                              losses, measured_on=training.measured_name)
    trouble = "" if shown is None else written(partial(shown.add_heldout, row, training.measured_name))
    worse = early_stopping.got_worse(training.config, state) if state.step == training.total_steps else ""
    if worse:
        log.warning(worse)
    report(Progress(stage="train", step=state.step, total=training.total_steps, metrics=row,
                    notice=worse or metrics.failure or trouble,
                    measured_on=training.measured_name))
    return state


def _watch(training: Training, run: Run, state: RunState, report: Report, *, requested: bool) -> dict[str, float]:
    """Look for songs that are learned by heart, if that is due or the run ends now; name those that are new.

    Returns numbers for the row of the measurement.
    """
    watch, total = training.watch, training.total_steps
    ends = early_stopping.end(training.config, state, total, requested=requested) is not None
    if watch is None or not (ends or watch.is_due(state.step)):
        return {}
    at = Progress(stage="train", step=state.step, total=total, message=WATCHING)
    passes = (*watch.trained, *watch.heldout)
    with training.averaged():
        found = with_less_memory(lambda: falls(training.objective, passes, at, report), training, state.step, report)
    count = len(watch.trained)
    watched = Watched(step=state.step, songs=judge(watch, found[:count], found[count:]))
    before = by_heart.read(run.folder)
    by_heart.write(run.folder, watched)
    if {*watched.by_heart} - {*(before.by_heart if before else ())}:
        notice = watched.sentence(state.best_step)
        log.warning(notice)
        report(Progress(stage="train", step=state.step, total=total, notice=notice))
    return {"by_heart": len(watched.by_heart), "by_heart_share": watched.songs[0].share}


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
