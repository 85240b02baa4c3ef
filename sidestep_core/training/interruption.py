"""Saving of a run that ends early, by a stop or an error, and its pauses."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from ..device import is_out_of_memory
from ..errors import SideStepError, TrainingFailed
from ..progress import Cancelled, Progress, Report, was_stopped
from ..sentence import Sentence
from . import publish, run_checkpoint
from .controls import Controls, GaveWay
from .publish import Run
from .run_checkpoint import RunState
from .step import Training

log = logging.getLogger(__name__)

PROOF_STRIDE = 8
"""One module in this many is proven when a run is stopped: all 192 would take seconds while someone waits."""


def preserve(training: Training, run: Run, state: RunState, end: BaseException) -> BaseException:
    """Save the last finished step, and return the exception to raise instead of `end`: its message names the step to
    continue from.  A stop also publishes the adapter so far.
    """
    if was_stopped(end):
        return end if state.step == 0 else _preserve_stopped(training, run, state, end)
    first_line = (str(end).strip().splitlines() or [type(end).__name__])[0]
    message = f"{first_line.removesuffix('.')}. {_preserve_failed(training, run, state)}".rstrip()
    if isinstance(end, SideStepError) or is_out_of_memory(end):
        return type(end)(message)
    return TrainingFailed(f"The training failed in step {state.step + 1}: {message}")


def _preserve_stopped(training: Training, run: Run, state: RunState, stop: BaseException) -> BaseException:
    message = f"Stopped after step {state.step} of {training.total_steps}."
    if not _is_whole(training):
        continues = _continues(run)
        return Cancelled(f"{message} {continues}".rstrip()) if isinstance(stop, Cancelled) else stop
    try:
        kept = publish.publish_stopped(training, run, state, PROOF_STRIDE)
        message = _stopped(state.step, training.total_steps, kept.path)
    except Exception as error:  # noqa: BLE001 (the person asked to stop, and learns what was not kept)
        log.warning("The adapter of step %d could not be published.", state.step, exc_info=True)
        message = f"{message} The adapter so far could not be kept ({error}). {_continues(run)}".rstrip()
    log.info(message)
    return Cancelled(message) if isinstance(stop, Cancelled) else stop


def wait_while_paused(run: Run, total: int, controls: Controls, report: Report) -> None:
    """Wait, with nothing on the device, as long as `controls` asks for a pause.

    A stop ends the pause at once and publishes the adapter of the last saved step.
    """
    saved, step = run_checkpoint.checkpoints(run.folder), run_checkpoint.newest_step(run.folder)
    message = Sentence("Paused at step {step}. The card is free.", step=step)
    try:
        controls.wait(report, Progress(stage="pause", step=step, total=total, message=message))
    except Cancelled as stop:
        if isinstance(stop, GaveWay) or not saved:
            raise
        kept = publish.publish_unproven(run, saved[-1])
        raise Cancelled(_stopped(step, total, kept)) from stop


def _stopped(step: int, total: int, kept: Path) -> str:
    return Sentence("Stopped after step {step} of {total}. The adapter so far: {file}. Train again to continue from "
                    "here.", step=step, total=total, file=kept.name)


def _preserve_failed(training: Training, run: Run, state: RunState) -> str:
    """Save the last finished step if it can still be read; return a sentence about the point to continue from."""
    if state.step:
        try:
            if _is_whole(training):
                publish.save_checkpoint(training, run, state, prune=False)
        except Exception:  # noqa: BLE001 (the first error is what people need; a lost device can be read no more)
            log.warning("Step %d could not be kept.", state.step, exc_info=True)
    return _continues(run)


def _is_whole(training: Training) -> bool:
    """Return True if the weights are those of a finished step, and finite."""
    return not training.updating.is_set() and all(
        bool(torch.isfinite(parameter).all()) for parameter in training.adapter.parameters)


def _continues(run: Run) -> str:
    kept = [run_checkpoint.step_of(path) for path in run_checkpoint.checkpoints(run.folder)]
    return f"Step {max(kept)} is kept: the same run continues from there." if kept else ""
