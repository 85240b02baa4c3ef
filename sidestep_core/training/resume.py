"""Start of a run: at its newest checkpoint, at a chosen checkpoint, or at the weights of an adapter file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters import formats, registry
from ..adapters.algorithm import check_belongs
from ..adapters.alpha import settings_file
from ..adapters.file import content_fingerprint
from ..errors import AdapterError, ConfigError
from ..io import atomic, hashing
from ..runs import influence
from . import metrics, run_checkpoint
from .footprint.step_down import lower_precision, lowered
from .publish import Run
from .run_checkpoint import ADAPTER_FILE, BEST_FILE, RunState, Saved
from .step import Training

log = logging.getLogger(__name__)

Identity = Mapping[str, Any]

ESSENTIAL = ("train.optimizer", "train.lora_plus_ratio", "train.seed", "train.heldout_songs", "train.heldout_sections")
"""Settings that must equal those of a resumed checkpoint: its state belongs to the optimizer and its groups, and the
others choose the held-out songs, which must not be among those already trained on."""


def checkpoint_fingerprint(path: Path) -> str:
    """Fingerprint of every byte of a checkpoint.  AdapterError if there is no checkpoint."""
    files = sorted(path.glob("*.*"))
    if not (path / ADAPTER_FILE).is_file():
        raise AdapterError(f"{path} holds no checkpoint. Choose a folder checkpoint-step-N of a run, or use start_from "
                           "to take only the weights of an adapter file.")
    return hashing.fingerprint([[file.name, hashing.hash_file(file)] for file in files])


def adapter_fingerprint(path: Path) -> str:
    """Fingerprint of every byte of an adapter file, and of the file that holds its alpha."""
    file = formats.open_file(path).path
    settings = settings_file(file)
    return content_fingerprint(file) + (content_fingerprint(settings) if settings else "")


def prepare_run_dir(folder: Path, identity: Identity, resume_from: Path | None, total_steps: int) -> None:
    """Bind the folder to this run, and make the checkpoint to resume from the newest in it.

    ConfigError, before anything is touched, if that checkpoint is damaged, beyond the end of this run, or of a run
    with another adapter, optimizer, dataset, model or choice of held-out songs; the message names the differences.
    """
    if resume_from is None:
        run_checkpoint.lock(folder, identity)
        return
    _check_continuable(resume_from, identity)
    step = run_checkpoint.read(resume_from).state.step
    if step > total_steps:
        raise ConfigError(f"{resume_from} is at step {step}, but this run has only {total_steps} steps. Raise "
                          "max_steps or epochs, or continue from an earlier checkpoint.")
    if is_own(folder, resume_from):
        _rewind(folder, resume_from, step)
        run_checkpoint.change_identity(folder, identity)
        return
    run_checkpoint.lock(folder, identity)
    if not run_checkpoint.checkpoints(folder):
        rows = [row for row in metrics.read(resume_from.parent / metrics.FILE) if row["step"] <= step]
        metrics.write(folder / metrics.FILE, rows)
        with atomic.atomic_folder(folder / resume_from.name) as temporary:
            for file in resume_from.iterdir():
                atomic.copy(file, temporary / file.name)
        log.info("Starts as a copy of %s.", resume_from)


def is_own(folder: Path, resume_from: Path | None) -> bool:
    """Return True if the checkpoint is one of the run in the folder."""
    return resume_from is not None and resume_from.resolve().parent == folder.resolve()


def _rewind(folder: Path, checkpoint: Path, step: int) -> None:
    """Remove everything of the run after the checkpoint."""
    run_checkpoint.reopen(folder)
    for later in reversed(run_checkpoint.checkpoints(folder)):
        if later.name == checkpoint.name:
            break
        atomic.remove_folder(later)
    metrics.keep_until(folder / metrics.FILE, step)
    influence.forget_after(folder, step)
    log.info("Back at step %d.", step)


def _check_continuable(checkpoint: Path, identity: Identity) -> None:
    """Raise ConfigError if resuming there would not be the same training; log other differences."""
    there = run_checkpoint.read_identity(checkpoint.resolve().parent)
    differing = dict(_differences("", there, identity))
    essential = [f"{key} is {was!r} there and {now!r} here" for key, (was, now) in differing.items()
                 if key.partition(".")[0] in ("checkpoint", "dataset", "adapter") or key in ESSENTIAL]
    if essential:
        raise ConfigError(f"{checkpoint} cannot be continued here: {'; '.join(essential)}. Choose the same, or use "
                          f"start_from with {ADAPTER_FILE} in it, which takes only the weights.")
    for key, (was, now) in differing.items():
        log.info("Continues with another %s: %r, before %r.", key, now, was)


def _differences(prefix: str, there: Identity, here: Identity) -> list[tuple[str, tuple[Any, Any]]]:
    found: list[tuple[str, tuple[Any, Any]]] = []
    for key in sorted({*there, *here} - {"resume_from", "start_from"}):
        was, now = there.get(key), here.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            found += _differences(f"{prefix}{key}.", was, now)
        elif was != now:
            found.append((prefix + key, (was, now)))
    return found


def restore(training: Training, run: Run, start_from: Path | None, notify: Callable[[str], None]) -> RunState:
    """Restore adapter, average and optimizer from the newest whole checkpoint; if the run has none, load the weights of
    `start_from` if given.

    `notify` receives a sentence for each damaged checkpoint, which is set aside.  AdapterError if all are damaged.
    """
    saved = run_checkpoint.checkpoints(run.folder)
    for checkpoint in reversed(saved):
        try:
            return _restore(training, run, checkpoint)
        except AdapterError as error:
            if checkpoint == saved[0]:
                raise AdapterError(f"{error} The run {run.folder.name} has no other checkpoint. Delete its folder to "
                                   "train from the beginning.") from error
            run_checkpoint.set_aside(checkpoint)
            notify(f"{error} The run continues from the checkpoint before.")
    _start(training, start_from)
    return RunState()


def load_newest(training: Training, folder: Path, start_from: Path | None) -> None:
    """Load what `restore` has restored in another process of the same training; nothing is written."""
    saved = run_checkpoint.checkpoints(folder)
    if saved:
        _load(training, run_checkpoint.read(saved[-1]))
    else:
        _start(training, start_from)


def _start(training: Training, start_from: Path | None) -> None:
    if start_from is not None:
        training.adapter.load_state_dict(weights_of(start_from, training.adapter.state_dict()))
        log.info("Starting from the weights of %s.", start_from)
    if training.average is not None:
        training.average.start()


def _load(training: Training, saved: Saved) -> None:
    run_checkpoint.restore_optimizer(saved, training.optimizer)
    if training.average is not None:
        training.adapter.load_state_dict(saved.adapter if saved.average is None else saved.average)
        training.average.start()
    training.adapter.load_state_dict(saved.adapter)
    if saved.state.lowered not in (None, lowered(training)):
        lower_precision(training, saved.state.lowered)


def _restore(training: Training, run: Run, checkpoint: Path) -> RunState:
    saved = run_checkpoint.read(checkpoint)
    _load(training, saved)
    log.info("Continuing from %s.", checkpoint)
    best = checkpoint / BEST_FILE
    if best.is_file():
        atomic.copy(best, run.best)
    else:
        # There was none by then, or none is kept because no song is held out.
        run.best.unlink(missing_ok=True)
    return saved.state


def weights_of(path: Path, own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Read an adapter file of any layout as the state of an adapter with the state `own`, scaled to its alphas.

    AdapterError if kind, rank or modules differ.
    """
    found = formats.as_own_state(path)
    # A LoKR of two whole blocks has no use for its alpha.
    found |= {name: own[name] for name in own if name.endswith(".alpha") and name not in found
              and f"{name.removesuffix('alpha')}lokr_w2" in found}
    for name in [name for name in found if name.endswith(".alpha") and name in own]:
        # An alpha in float64 is trained itself; see adapters/layer.py.
        if own[name].dtype == torch.float32 and float(found[name]) != float(own[name]):
            module = name.removesuffix("alpha")
            last = next(module + ending for ending in registry.scaled_names() if module + ending in found)
            found[last] = found[last] * (float(found[name]) / float(own[name]))
            found[name] = own[name]
    try:
        check_belongs(found, own)
    except AdapterError as error:
        raise AdapterError(f"A training of this adapter cannot start from {path.name}: {error} Use the kind, rank and "
                           "modules of that file.") from error
    return found
