"""Folder of one training run, from which the run resumes exactly where it stopped.

    run.json                 identity of the run: fingerprints and every setting
    summary.json             course of the run, for people; see runs/record.py
    metrics.jsonl            one line per step
    heldout.json             song, place and time of the passes whose losses the lines of measurements list
    by_heart.json            trained songs that were watched, and those that are learned by heart
    checkpoint-step-N/       adapter.safetensors (usable as it is), ema.safetensors and best.safetensors (likewise),
                             optimizer.safetensors, state.json, checksums.json; of a LoRA, adapter_config.json and
                             adapter_model.safetensors make it a folder that PEFT opens
    best/                    the adapter of the lowest held-out loss so far
    final/                   the adapter of the last step, its average, and the best one if publish asks for it;
                             a folder for PEFT as well
    tensorboard/  previews/   if enabled
    finished.json            the finished adapter, returned when the same run is started again

All randomness of a step is a pure function of the seed and the step (flow.py), so there is none to save.
"""

from __future__ import annotations

import logging
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters.file import Adapter
from ..config import BasePrecision
from ..errors import AdapterError, ConfigError
from ..io import atomic, hashing, strict_json, temp_files
from ..io.record import parse
from ..io.tensors import BadTensorFile, read_tensors, write_tensors
from ..runs.files import FINISHED as _FINISHED_FILE
from ..runs.files import RUN as _RUN_FILE
from .optim import optimizers

log = logging.getLogger(__name__)

ADAPTER_FILE = "adapter.safetensors"
AVERAGE_FILE = "ema.safetensors"
BEST_FILE = "best.safetensors"
PASSES = "heldout.json"
_OPTIMIZER_FILE = "optimizer.safetensors"
_STATE_FILE = "state.json"

FIRST_SCALE = 65536.0


@dataclass(frozen=True, kw_only=True)
class RunState:
    """State of a run after its last finished step, without its tensors."""

    step: int = 0
    heldout_step: int = -1
    """Step of the last held-out measurement."""
    heldout_first: float | None = None
    """Held-out loss of the base model, before the first step."""
    heldout_last: float | None = None
    heldout_before: float | None = None
    """The measurement before the last."""
    best_step: int = 0
    """Step of the lowest held-out loss of a trained adapter; 0 before there is one."""
    best_loss: float | None = None
    best_losses: tuple[float, ...] = ()
    """Losses of the passes of the best measurement."""
    reference_step: int = 0
    """Step from which early stopping counts: of the last measurement that was surely lower than the one before."""
    reference_loss: float | None = None
    reference_losses: tuple[float, ...] = ()
    """Losses of the reference's passes; of the base model's before there is a reference."""
    heldout_error: float | None = None
    """Standard error of the difference between the last measurement and the reference before it."""
    stale: int = 0
    """Measurements since the reference."""
    previewed_step: int = -1
    """Step of the last preview."""
    scale: float = FIRST_SCALE
    """Loss scale in fp16."""
    lowered: BasePrecision | None = None
    """Precision that the base model was brought to when memory ran out."""

    def with_heldout(self, loss: float, losses: tuple[float, ...] = ()) -> RunState:
        """Return the state after a measurement at the present step: its mean, and the losses of its passes.

        It is the best one if its mean is the lowest, and the reference if it is lower than that by more than the
        standard error of their difference: a choice that waits to be sure was found to keep worse adapters.
        """
        first = loss if self.heldout_first is None else self.heldout_first
        gain, error = _gain(self.reference_losses, losses)
        measured = replace(self, heldout_step=self.step, heldout_first=first, heldout_last=loss,
                           heldout_before=self.heldout_last, heldout_error=error)
        if self.step == 0:
            return replace(measured, reference_losses=losses)
        if self.best_loss is None or _is_lower(loss, losses, self.best_loss, self.best_losses):
            measured = replace(measured, best_step=self.step, best_loss=loss, best_losses=losses)
        if self.reference_loss is None or (gain > error if error is not None else loss < self.reference_loss):
            return replace(measured, reference_step=self.step, reference_loss=loss, reference_losses=losses, stale=0)
        return replace(measured, stale=self.stale + 1)


def _is_lower(loss: float, losses: Sequence[float], than: float, than_losses: Sequence[float]) -> bool:
    """Compare two measurements by the passes that both have; by their means if they share none."""
    shared = min(len(losses), len(than_losses))
    return statistics.fmean(losses[:shared] or (loss,)) < statistics.fmean(than_losses[:shared] or (than,))


def _gain(before: Sequence[float], losses: Sequence[float]) -> tuple[float, float | None]:
    """Mean of the falls of the passes that both measurements have, and its standard error; None for less than two."""
    falls = [was - now for was, now in zip(before, losses, strict=False)]
    if len(falls) < 2:
        return sum(falls), None
    return statistics.fmean(falls), statistics.stdev(falls) / math.sqrt(len(falls))


@dataclass(frozen=True, kw_only=True)
class Saved:
    """Content of a checkpoint."""

    path: Path
    state: RunState
    adapter: Mapping[str, Tensor]
    average: Mapping[str, Tensor] | None
    """State of the averaged adapter, if the run has an average."""
    optimizer: tuple[Mapping[str, Tensor], strict_json.Json]
    """State of the optimizer, as `optimizers.state_dict` returns it."""


def lock(folder: Path, identity: Mapping[str, Any]) -> None:
    """Bind the folder to this run.  ConfigError names the differences if it belongs to another."""
    temp_files.remove_all(folder)
    path = folder / _RUN_FILE
    if not path.is_file():
        atomic.write_json(path, identity)
        return
    saved = read_identity(folder)
    differing = sorted(key for key in {*saved, *identity} if saved.get(key) != identity.get(key))
    if differing:
        raise ConfigError(f"{folder} holds another run; {', '.join(differing)} differ(s). Use another run name.")


def change_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Bind the folder to this run, whichever it held."""
    temp_files.remove_all(folder)
    atomic.write_json(folder / _RUN_FILE, identity)


def read_identity(folder: Path) -> dict[str, Any]:
    """Read the identity of the run in the folder.  AdapterError if there is none, or it is damaged."""
    path = folder / _RUN_FILE
    if not path.is_file():
        raise AdapterError(f"{path} is missing, so {folder} is no run of Side-Step. To take only the weights of an "
                           "adapter, use start_from.")
    try:
        return strict_json.as_object(strict_json.read(path), _RUN_FILE)
    except (OSError, ValueError) as error:
        raise AdapterError(f"{_RUN_FILE} is damaged ({error}). Delete the run's folder, or "
                           "give the adapter another name.") from error


def checkpoints(folder: Path) -> list[Path]:
    """List the run's complete checkpoints, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-step-*")
             if (match := re.fullmatch(r"checkpoint-step-(\d+)", path.name))]
    return [path for _, path in sorted(found)]


def newest_step(folder: Path) -> int:
    """Step of the run's newest checkpoint; 0 if it has none."""
    saved = checkpoints(folder)
    return step_of(saved[-1]) if saved else 0


def step_of(checkpoint: Path) -> int:
    """Step in the name of a checkpoint's folder."""
    return int(checkpoint.name.rpartition("-")[2])


def save(folder: Path, state: RunState, optimizer: torch.optim.Optimizer,
         files: Mapping[str, Callable[[Path], None]], keep: int) -> Path:
    """Write a checkpoint with these files (name -> writer), whole or absent.

    Then all but the last `keep` are removed; none if that is 0.
    """
    path = folder / f"checkpoint-step-{state.step}"
    if not path.is_dir():
        with atomic.atomic_folder(path) as temporary:
            for name, write in files.items():
                write(temporary / name)
            tensors, rest = optimizers.state_dict(optimizer)
            write_tensors(temporary / _OPTIMIZER_FILE, tensors)
            atomic.write_json(temporary / _STATE_FILE, {**asdict(state), "optimizer": rest})
            hashing.write_checksums(temporary)
    for old in checkpoints(folder)[:-keep] if keep else ():
        try:
            atomic.remove_folder(old)
        except PermissionError as error:
            # On Windows a program that has one of its files open keeps it; that must not end the training.
            log.warning("%s is removed later: %s", old, error)
    return path


def read(path: Path) -> Saved:
    """Read a checkpoint.  AdapterError if a part is missing or damaged, ConfigError if it is of another version."""
    try:
        hashing.verify_checksums(path)
        values = strict_json.as_object(strict_json.read(path / _STATE_FILE), _STATE_FILE)
        optimizer = read_tensors(path / _OPTIMIZER_FILE), values.pop("optimizer")
        _check_version(path, values)
        state = parse(values, RunState, _STATE_FILE)
        if state.step != step_of(path):
            raise AdapterError(f"{_STATE_FILE} says step {state.step}")
        average = path / AVERAGE_FILE
        return Saved(path=path, state=state, adapter=read_tensors(path / ADAPTER_FILE),
                     average=read_tensors(average) if average.is_file() else None, optimizer=optimizer)
    except ConfigError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AdapterError, BadTensorFile) as error:
        raise AdapterError(f"{path.name} is damaged ({error}).") from error


def _check_version(path: Path, state: Mapping[str, Any]) -> None:
    """Raise ConfigError if a whole checkpoint lacks a part of the state, which a default would replace silently."""
    missing = sorted({field.name for field in fields(RunState)} - state.keys())
    if missing:
        raise ConfigError(f"{path} was saved by another version of Side-Step: its {_STATE_FILE} has no {missing[0]}. "
                          f"Use another run name; start_from with {ADAPTER_FILE} in it takes the weights.")


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint, so that it is ignored and its name is free."""
    aside = path.with_name(f"{path.name}.damaged")
    if aside.exists():
        atomic.remove_folder(aside)
    path.rename(aside)


def restore_optimizer(saved: Saved, optimizer: torch.optim.Optimizer) -> None:
    """Load the saved state into the optimizer.  AdapterError if it is of another optimizer."""
    try:
        optimizers.load_state_dict(optimizer, *saved.optimizer)
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{saved.path} does not fit this optimizer ({error}). Delete this folder; the run continues "
                           "from the one before.") from error


def finish(folder: Path, adapter: Adapter, ended: str, *, by_hand_at: int | None = None) -> None:
    """Mark the run as complete, with its adapter and the reason of its end; `by_hand_at` is the step of an end on
    request."""
    atomic.write_json(folder / _FINISHED_FILE, {"ended": ended, "by_hand_at": by_hand_at, "adapter": adapter.to_json(),
                                                 "sha256": hashing.hash_file(adapter.path)})


def finished_by_hand(folder: Path) -> int | None:
    """Step after which the run was ended on request; None if it was not."""
    path = folder / _FINISHED_FILE
    if not path.is_file():
        return None
    try:
        return parse(strict_json.as_object(strict_json.read(path), _FINISHED_FILE).get("by_hand_at"), int | None,
                     _FINISHED_FILE)
    except (OSError, ValueError) as error:
        raise AdapterError(f"{_FINISHED_FILE} is damaged ({error}). Delete it; the run "
                           "finishes again from its last checkpoint.") from error


def reopen(folder: Path) -> None:
    """Remove the mark of a complete run."""
    (folder / _FINISHED_FILE).unlink(missing_ok=True)


def is_finished(folder: Path) -> bool:
    """Return True if the run is complete, whatever became of its adapter since."""
    return (folder / _FINISHED_FILE).is_file()


def finished(folder: Path) -> Adapter | None:
    """Adapter of the run, if the run is complete and the published file is unchanged."""
    path = folder / _FINISHED_FILE
    if not path.is_file():
        return None
    try:
        values = strict_json.as_object(strict_json.read(path), _FINISHED_FILE)
        facts = strict_json.as_object(values["adapter"], _FINISHED_FILE)
        if "tag" in facts:  # the trigger word, in the first runs
            facts["trigger_word"] = facts.pop("tag")
        adapter = parse(facts, Adapter, _FINISHED_FILE)
        if adapter.path.suffix != ".safetensors":
            raise AdapterError(f"{adapter.path.name} is no adapter file")
        whole = adapter.path.is_file() and hashing.hash_file(adapter.path) == values["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AdapterError) as error:
        raise AdapterError(f"{_FINISHED_FILE} is damaged ({error}). Delete it; the run "
                           "finishes again from its last checkpoint.") from error
    return adapter if whole else None
