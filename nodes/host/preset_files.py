"""Presets that a page offers: the built-in ones, and a person's own in the output folder."""

from __future__ import annotations

from pathlib import Path

from ...sidestep_core.errors import ConfigError
from ...sidestep_core.presets import preset
from ...sidestep_core.presets.preset import Imported, Preset
from . import folders

OWN = "my presets/"


def choices() -> list[str]:
    """Names of the built-in presets, and of a person's own after `my presets/`."""
    return [*preset.BUILT_IN, *_own()]


def load(choice: str) -> Imported:
    """The preset behind a choice.  ConfigError when it is not one of the choices, or not a preset."""
    if choice in preset.BUILT_IN:
        return Imported(preset=preset.load_built_in(choice))
    return preset.read(path_of(choice))


def chosen(choice: str, changes: str, json: str) -> tuple[Imported, Preset]:
    """The preset behind a choice, or in the text `json` where that is not empty; and with single settings changed.

    ConfigError where one of them cannot be read.
    """
    found = preset.read(json) if json.strip() else load(choice)
    return found, found.preset.with_changes(changes)


def path_of(choice: str) -> Path:
    """The file behind the choice of an own preset."""
    # Looked up, never joined: a choice comes from a workflow, which people share.
    found = _own()
    if choice not in found:
        raise ConfigError(f"There is no preset {choice!r} in {folders.presets_folder()}. Press R to refresh the list, "
                          "and choose one of it.")
    return found[choice]


def own_file(name: str) -> Path:
    """File of an own preset of this name.  ConfigError when the name cannot be a file name."""
    return folders.presets_folder() / f"{folders.safe_name(name, 'name')}.json"


def _own() -> dict[str, Path]:
    files = sorted(path for path in folders.presets_folder().glob("*.json") if not path.name.startswith("."))
    return {f"{OWN}{path.stem}": path for path in files}
