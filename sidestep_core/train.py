"""Training: the only loop.  Measures, steps, saves, and keeps what is finished when it is stopped."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import adapter as adapter_file
from . import lora, run_state
from .adapter import Adapter, Loader
from .checkpoint import Checkpoint
from .config import LoraConfig, TrainConfig
from .dataset import Dataset
from .device import choose_device, explain_out_of_memory, release_memory
from .errors import DatasetError
from .metrics import FILE as METRICS_FILE
from .metrics import Metrics
from .progress import Cancelled, Progress, Report, ignore
from .run_state import RunState
from .step import Training, heldout_loss, optimizer_step, prepare

log = logging.getLogger(__name__)

PROVEN_WHEN_STOPPED = 8
"""Of so many modules one is proven when a run is stopped: all 192 would take seconds, and someone is waiting."""

SPEED_ONLY = ("gradient_checkpointing", "save_every", "device")
"""Settings that say how fast or where; the result is the same but for how another device rounds.  A stopped run
continues with others."""

INFERENCE = {
    "turbo": {"shift": 3.0, "steps": 8},
    "base": {"shift": 1.0, "steps": 50},
    "sft": {"shift": 1.0, "steps": 50},
}
"""How each variant is sampled; goes into the adapter's metadata for people, never into training."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Where the results of a training go, what is written into them, and by which loader they are proven."""

    folder: Path
    target: Path
    facts: Mapping[str, Any]
    load: Loader


def train(checkpoint: Checkpoint, dataset: Dataset, adapter: LoraConfig, config: TrainConfig, folder: Path,
          target: Path, *, load: Loader = adapter_file.read_deltas, report: Report = ignore) -> Adapter:
    """Train an adapter and put it, proven, at `target` (or the next free name beside it).

    `folder` is the run's own: a finished run is returned at once, a stopped one continues.  `load` is the program
    that the saved file is proven with.  When `report` raises `Cancelled` (or anything that is no Exception rises), the
    last finished step is kept as a checkpoint and as a usable adapter.
    """
    _check_made_for(dataset, checkpoint)
    run_identity = identity(checkpoint, dataset, adapter, config)
    run_state.claim(folder, run_identity)
    if (done := run_state.finished(folder)) is not None:
        log.info("This run is already finished: %s", done.path)
        return done
    facts = {**run_identity, "variant": checkpoint.variant, "size": checkpoint.size, "tag": dataset.tag,
             "style": dataset.style, "checkpoint_name": checkpoint.name, "inference": INFERENCE[checkpoint.variant],
             "train": config.to_json()}
    run = Run(folder=folder, target=target, facts=facts, load=load)
    report(Progress(stage="load", step=0, total=config.max_steps, message=f"Loading the decoder of {checkpoint.name}"))
    device = choose_device(config.device)
    advice = "Lower crop_seconds, batch_size or rank, or switch gradient_checkpointing on; precision bf16 halves fp32."
    try:
        with explain_out_of_memory("training", advice), _own_random_state(device):
            return _run(prepare(checkpoint, dataset, adapter, config, device), run, report)
    finally:
        release_memory(device)


def identity(checkpoint: Checkpoint, dataset: Dataset, adapter: LoraConfig, config: TrainConfig) -> dict[str, Any]:
    """What makes a run this run; the same identity finds the same run on the disk again."""
    method = {key: value for key, value in config.to_json().items() if key not in SPEED_ONLY}
    return {"checkpoint": checkpoint.fingerprint, "dataset": dataset.fingerprint, "adapter": adapter.to_json(),
            "train": method}


def _check_made_for(dataset: Dataset, checkpoint: Checkpoint) -> None:
    if dataset.checkpoint != checkpoint.fingerprint:
        raise DatasetError(f"The dataset in {dataset.folder} was made with another checkpoint ({dataset.checkpoint}) "
                           f"than {checkpoint.name} ({checkpoint.fingerprint}). "
                           "Run PreprocessAudioFolder again with this checkpoint.")


@contextlib.contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    """Adapter dropout draws from torch's global generator; leave it to others as it was."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.enable_grad():
        yield


def _run(training: Training, run: Run, report: Report) -> Adapter:
    """The loop: measure when it is due, step, save when it is due; on an interruption keep what is finished."""
    config = training.config
    state = _resume(training, run)
    metrics = Metrics(run.folder / METRICS_FILE, after_step=state.step, total=config.max_steps)
    try:
        while True:
            if _measurement_due(state, config):
                loss = heldout_loss(training, state.step, report)
                state = state.with_heldout(loss)
                row = metrics.add_heldout(state.step, loss)
                report(Progress(stage="train", step=state.step, total=config.max_steps, metrics=row))
            if state.step == config.max_steps:
                break
            if state.step > 0 and state.step % config.save_every == 0:
                _save(training, run, state)
            numbers = optimizer_step(training, state.step, report)
            state = replace(state, step=state.step + 1)
            row = metrics.add_step(state.step, numbers)
            report(Progress(stage="train", step=state.step, total=config.max_steps, metrics=row))
    except BaseException as stop:
        # A host may stop us from inside any call, by an exception that is no Exception.
        interrupted = isinstance(stop, Cancelled) or not isinstance(stop, Exception)
        if not interrupted or state.step == 0:
            raise
        target = run.target.with_stem(f"{run.target.stem}-step-{state.step}")
        kept = _publish(training, run, state, target, every=PROVEN_WHEN_STOPPED)
        message = (f"Stopped after step {state.step} of {config.max_steps}. The adapter so far: {kept.path}. "
                   "Queue the same workflow again to continue from here.")
        log.info(message)
        if isinstance(stop, Cancelled):
            raise Cancelled(message) from stop
        raise
    report(Progress(stage="save", step=state.step, total=config.max_steps, message="Saving and proving the adapter"))
    adapter = _publish(training, run, state, run.target)
    run_state.finish(run.folder, adapter)
    return adapter


def _resume(training: Training, run: Run) -> RunState:
    saved = run_state.checkpoints(run.folder)
    if not saved:
        return RunState()
    state, adapter = run_state.load(saved[-1], training.optimizer)
    lora.load_state(training.decoder, adapter)
    log.info("Continuing from %s.", saved[-1])
    return state


def _measurement_due(state: RunState, config: TrainConfig) -> bool:
    due = state.step % config.heldout_every == 0 or state.step == config.max_steps
    return due and state.heldout_step != state.step


def _save(training: Training, run: Run, state: RunState) -> Path:
    facts = {**run.facts, "steps": state.step, "heldout_first": state.heldout_first, "heldout_last": state.heldout_last}
    tensors = lora.state(training.decoder)
    return run_state.save(run.folder, state, training.optimizer, lambda path: adapter_file.write(path, tensors, facts))


def _publish(training: Training, run: Run, state: RunState, target: Path, *, every: int = 1) -> Adapter:
    """Save a checkpoint, prove its adapter file on every n-th module, then copy it to where people will use it."""
    saved = _save(training, run, state) / run_state.ADAPTER_FILE
    proof = adapter_file.prove(saved, lora.deltas(training.decoder, every), run.load)
    return Adapter(path=adapter_file.publish(saved, target), checkpoint=run.facts["checkpoint"],
                   variant=run.facts["variant"], tag=run.facts["tag"], steps=state.step,
                   heldout_first=state.heldout_first, heldout_last=state.heldout_last, proof=proof)
