"""Words for people: errors as sentences, and places by their role in ComfyUI, never by where the server keeps them."""

from __future__ import annotations

import re
from pathlib import Path

import folder_paths

from ..sidestep_core.errors import SideStepError


def sentence(error: Exception) -> str:
    """An error as a person reads it: our own are sentences already, others get their kind."""
    if isinstance(error, SideStepError):
        return without_places(str(error))
    return without_places(f"Unexpected error: {type(error).__name__}: {error}. "
                          "Please report it, with ComfyUI's log.")


def without_places(text: str) -> str:
    """The text with `loras/a.safetensors` or `output/b` where it had full paths; of any other place its last name."""
    for folder, role in sorted(_roles().items(), key=lambda item: -len(item[0])):
        text = re.sub(rf"{re.escape(folder)}(?=[\\/\s'\"),.;:]|$)", role.replace("\\", r"\\"), text)
    return re.sub(r"(?<![\w/.:~])(?:[A-Za-z]:)?[\\/](?:[^\s\\/'\"]+[\\/])+(?=[^\s\\/])", "", text)


def _roles() -> dict[str, str]:
    """ComfyUI's folders, each with what it is to a person."""
    found = {str(Path(folder_paths.base_path)): "ComfyUI", str(Path(folder_paths.models_dir)): "models",
             str(Path(folder_paths.get_output_directory())): "output",
             str(Path(folder_paths.get_input_directory())): "input"}
    for kind, (folders, _) in folder_paths.folder_names_and_paths.items():
        found |= {str(Path(folder)): kind for folder in folders}
    return found
