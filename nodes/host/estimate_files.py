"""Estimates that a page offers: the files in ComfyUI's folders for them, and the choice of none."""

from __future__ import annotations

from pathlib import Path

from ...sidestep_core.errors import ConfigError
from ...sidestep_core.estimate import result
from ...sidestep_core.estimate.result import Estimate
from ...sidestep_core.io import strict_json
from . import folders

NONE = "none"
"""Offered too, so that a text can be pasted where there is no file."""


def choices() -> list[str]:
    """Names of the files, those that were saved under a name before those that were only kept."""
    return [*sorted(folders.estimate_files(), key=lambda name: ("/" in name, name)), NONE]


def path_of(choice: str) -> Path:
    """The file behind a choice.  ConfigError when it is not one of the choices."""
    # Looked up, never joined: a choice comes from a workflow, which people share.
    found = folders.estimate_files()
    if choice not in found:
        raise ConfigError(f"There is no estimate {choice!r} in {folders.estimates_folder()}. Press R to refresh the "
                          "list and choose one of it, or paste the text of a file into json.")
    return found[choice]


def load(choice: str) -> Estimate:
    """The estimate behind a choice.  ConfigError when it is not one of the choices, or not an estimate."""
    return result.read(strict_json.read_bytes(path_of(choice), max_bytes=result.MAX_CHARACTERS), choice)
