"""Choices of a page and the files behind them: where a training goes on, and which adapters are compared."""

from __future__ import annotations

from pathlib import Path

from ...sidestep_core.errors import ConfigError
from . import folders

LATEST = "latest of this run"
NO_ADAPTER = "none"


def choices() -> list[str]:
    """The run's own latest checkpoint, and every checkpoint of every run as `run/checkpoint-step-N`, newest first."""
    return [LATEST, *_checkpoints()]


def checkpoint_of(choice: str) -> Path | None:
    """The folder behind a choice; None for the run's own latest.  ConfigError when it is not one of the choices."""
    if choice == LATEST:
        return None
    # Looked up, never joined: a choice comes from a workflow, which people share.
    found = _checkpoints()
    if choice not in found:
        raise ConfigError(f"There is no checkpoint {choice!r} in {folders.runs_folder()}. Press R to refresh the list, "
                          "and choose one of it.")
    return found[choice]


def adapters() -> list[str]:
    """No adapter, every adapter of the LoRA lists, and every run checkpoint as `run/checkpoint-step-N`."""
    return [NO_ADAPTER, *folders.adapter_choices(), *_checkpoints()]


def checkpoint_adapter(choice: str) -> Path | None:
    """Adapter file of a run checkpoint; None for any other choice, and for one that is gone."""
    from ...sidestep_core.training import run_checkpoint

    folder = _checkpoints().get(choice)
    return None if folder is None else folder / run_checkpoint.ADAPTER_FILE


def _checkpoints() -> dict[str, Path]:
    found = [path for path in folders.runs_folder().glob("*/checkpoint-step-*") if (path / "state.json").is_file()]
    newest_first = sorted(found, key=lambda path: (-path.stat().st_mtime_ns, path.as_posix()))
    return {f"{path.parent.name}/{path.name}": path for path in newest_first}
