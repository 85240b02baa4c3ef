"""The folder of one training run, from which it continues exactly where it stopped.

    run.json                 what the run is: fingerprints and every setting
    metrics.jsonl            one line per step
    checkpoint-step-N/       adapter.safetensors (usable as it is), optimizer.safetensors, state.json
    finished.json            the finished adapter; asking for the same run again returns it

All randomness of a step is a pure function of the seed and the step (flow.py), so there is none to save.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import storage
from .adapter import Adapter
from .errors import AdapterError, ConfigError

CHECKPOINTS_KEPT = 2
ADAPTER_FILE = "adapter.safetensors"
_OPTIMIZER_FILE = "optimizer.safetensors"
_STATE_FILE = "state.json"
_FINISHED_FILE = "finished.json"


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands after its last finished step."""

    step: int = 0
    heldout_step: int = -1
    """Step of the last held-out measurement."""
    heldout_first: float | None = None
    """Held-out loss of the base model, before the first step."""
    heldout_last: float | None = None

    def with_heldout(self, loss: float) -> RunState:
        """After measuring at the present step."""
        first = loss if self.heldout_first is None else self.heldout_first
        return replace(self, heldout_step=self.step, heldout_first=first, heldout_last=loss)


def claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Make the folder this run's, or check that it is.  ConfigError names what differs."""
    storage.remove_leftovers(folder)
    path = folder / "run.json"
    if not path.is_file():
        storage.write_json(path, identity)
        return
    try:
        saved = storage.read_json(path)
    except ValueError as error:
        raise AdapterError(f"{path} is damaged ({error}). Delete the folder {folder}, or give the adapter another "
                           "name.") from error
    differing = sorted(key for key in {*saved, *identity} if saved.get(key) != identity.get(key))
    if differing:
        raise ConfigError(f"{folder} holds another run; {', '.join(differing)} differ(s). Use another run name.")


def checkpoints(folder: Path) -> list[Path]:
    """The run's whole checkpoints, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-step-*")
             if (match := re.fullmatch(r"checkpoint-step-(\d+)", path.name))]
    return [path for _, path in sorted(found)]


def save(folder: Path, state: RunState, optimizer: torch.optim.Optimizer,
         write_adapter: Callable[[Path], None]) -> Path:
    """A new checkpoint, whole or absent; older ones beyond the last two are removed afterwards."""
    path = folder / f"checkpoint-step-{state.step}"
    if not path.is_dir():
        with storage.atomic_folder(path) as temporary:
            write_adapter(temporary / ADAPTER_FILE)
            tensors, numbers = _flatten(optimizer.state_dict()["state"])
            storage.write_tensors(temporary / _OPTIMIZER_FILE, tensors)
            storage.write_json(temporary / _STATE_FILE, {**asdict(state), "optimizer": numbers})
    for old in checkpoints(folder)[:-CHECKPOINTS_KEPT]:
        storage.remove_folder(old)
    return path


def load(path: Path, optimizer: torch.optim.Optimizer) -> tuple[RunState, dict[str, Tensor]]:
    """Restore the optimizer from a checkpoint; returns the state, and the adapter's tensors, still to be put back."""
    try:
        values = storage.read_json(path / _STATE_FILE)
        optimizer_state = _unflatten(storage.read_tensors(path / _OPTIMIZER_FILE), values.pop("optimizer"))
        adapter = storage.read_tensors(path / ADAPTER_FILE)
        state = RunState(**values)
    except (OSError, ValueError, KeyError, TypeError, storage.BadTensorFile) as error:
        raise AdapterError(f"{path} is damaged ({error}). Delete this folder; the run continues from the one "
                           "before.") from error
    optimizer.load_state_dict({**optimizer.state_dict(), "state": optimizer_state})
    return state, adapter


def _flatten(state: Mapping[int, Mapping[str, Any]]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """torch's optimizer state {parameter: {name: tensor or number}} as flat safetensors and JSON."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    for index, values in state.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                numbers[f"{index}.{name}"] = value
    return tensors, numbers


def _unflatten(tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **numbers}.items():
        index, name = key.split(".", 1)
        # A copy, because a memory-mapped checkpoint could not be removed on Windows.
        state.setdefault(int(index), {})[name] = value.clone() if isinstance(value, Tensor) else value
    return state


def finish(folder: Path, adapter: Adapter) -> None:
    """Record that the run is complete and what came out of it."""
    storage.write_json(folder / _FINISHED_FILE, adapter.to_json())


def is_finished(folder: Path) -> bool:
    """Whether the run is complete, whatever became of its adapter since."""
    return (folder / _FINISHED_FILE).is_file()


def finished(folder: Path) -> Adapter | None:
    """What the run produced, if it is complete and its adapter is still where it was put."""
    path = folder / _FINISHED_FILE
    try:
        adapter = Adapter.from_json(storage.read_json(path)) if path.is_file() else None
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{path} is damaged ({error}). Delete it; the run finishes again from its last "
                           "checkpoint.") from error
    return adapter if adapter is not None and adapter.path.is_file() else None
