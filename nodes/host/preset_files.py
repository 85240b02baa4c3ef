"""Presets that a page offers: the built-in ones, a person's own in the output folder, and the settings in adapters."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import folder_paths

from ...sidestep_core.adapters.file import holds_facts
from ...sidestep_core.errors import ConfigError
from ...sidestep_core.presets import preset
from ...sidestep_core.presets.preset import Imported, Preset
from . import folders

OWN = "my presets/"
ADAPTERS = "adapters/"


def choices() -> list[str]:
    """Names of the built-in presets, of a person's own after `my presets/`, and of adapters that hold the settings of
    their training after `adapters/`."""
    return [*preset.BUILT_IN, *_own(), *_adapters()]


def load(choice: str) -> Imported:
    """The preset behind a choice.  ConfigError when it is not one of the choices, or not a preset."""
    if choice in preset.BUILT_IN:
        return Imported(preset=preset.load_built_in(choice))
    path = path_of(choice)
    if choice.startswith(ADAPTERS):
        return Imported(preset=preset.from_adapter(path).portable())
    return preset.read(path)


def chosen(choice: str, changes: str, json: str) -> tuple[Imported, Preset]:
    """The preset behind a choice, or in the text `json` where that is not empty; and with single settings changed.

    ConfigError where one of them cannot be read.
    """
    found = preset.read(json) if json.strip() else load(choice)
    return found, found.preset.with_changes(changes)


def path_of(choice: str) -> Path:
    """The file behind a choice that is not built in."""
    # Looked up, never joined: a choice comes from a workflow, which people share.
    found = _adapters() if choice.startswith(ADAPTERS) else _own()
    if choice not in found:
        where = "ComfyUI's LoRA folders" if choice.startswith(ADAPTERS) else folders.presets_folder()
        raise ConfigError(f"There is no preset {choice!r} in {where}. Press R to refresh the list, and choose one of "
                          "it.")
    return found[choice]


def own_file(name: str) -> Path:
    """File of an own preset of this name.  ConfigError when the name cannot be a file name."""
    return folders.presets_folder() / f"{folders.safe_name(name, 'name')}.json"


def _own() -> dict[str, Path]:
    files = sorted(path for path in folders.presets_folder().glob("*.json") if not path.name.startswith("."))
    return {f"{OWN}{path.stem}": path for path in files}


def _adapters() -> dict[str, Path]:
    names = [name for name in folder_paths.get_filename_list("loras") if name.endswith(".safetensors")]
    paths = {name: folder_paths.get_full_path("loras", name) for name in names}
    return {f"{ADAPTERS}{Path(name).as_posix()}": Path(path) for name, path in paths.items()
            if path is not None and _holds_settings(Path(path))}


def _holds_settings(path: Path) -> bool:
    try:
        facts = path.stat()
    except OSError:
        return False
    return _read_holds_settings(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _read_holds_settings(path: Path, size: int, modified: int) -> bool:
    """Look into a file of this size and time once: the list is made whenever a page asks for the nodes."""
    return holds_facts(path)
