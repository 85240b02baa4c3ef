"""Words for people: errors as sentences, and places by their role in ComfyUI, never by where the server keeps them.

Everything that a node tells the page passes through here, in `reporting.py`, `events.py` and `song_routes.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import folder_paths

from ...sidestep_core.errors import SideStepError

_BEGINNING = re.compile(r"""
    (?<![\w/\\.:~<*)])                                  # not within a word, an address or a relative path
    (?:file:/*(?=[A-Za-z]:|/))?
    (?:[A-Za-z]:[\\/]+ | /+ | \\\\+(?=[\w$.-]+[\\/]+\w))  # a drive, a root, or another computer
    (?=[^\W_]|[._~$@\[({-]+\w)
    (?:
        (?: [^\s\\/'"<>|*?:;,.]
          | [:;,.](?![\s"']|$)
          | (?<![:;,.])[ ](?!(?:and|are|can|cannot|could|did|does|has|have|holds?|is|lacks|lies|must|or|says?|to|was
                                |were|will)\b | [\\/\s'"])   # a space in a name, not one that a sentence goes on with
        )+
        [\\/]+ (?=[^\s.'"\\/]|\.[^\s])
    )*""", re.VERBOSE)
"""Of an absolute path: all but its last name."""


def sentence(error: Exception) -> str:
    """An error as a person reads it: our own are sentences already, others get their kind."""
    if isinstance(error, SideStepError):
        return without_places(str(error))
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{Path(os.fsdecode(error.filename)).name}: {error.strerror}."
    return without_places(f"Unexpected error: {type(error).__name__}: {error}. "
                          "Please report it, with ComfyUI's log.")


def told(content: Any) -> Any:
    """The same JSON without places: lists and objects as they are, with `without_places` of every text."""
    if isinstance(content, str):
        return without_places(content)
    if isinstance(content, Mapping):
        return {key: told(value) for key, value in content.items()}
    return [told(value) for value in content] if isinstance(content, (list, tuple)) else content


def without_places(text: str) -> str:
    """The text with `loras/a.safetensors` or `output/b` where it had full paths; of any other place its last name."""
    if "/" not in text and "\\" not in text:
        return text
    for folder, role in sorted(_roles(), key=lambda item: -len(item[0])):
        text = re.sub(folder, lambda _, role=role: role, text, flags=re.IGNORECASE if os.name == "nt" else 0)
    return _BEGINNING.sub("", text)


def _roles() -> Iterator[tuple[str, str]]:
    """A pattern of each folder of ComfyUI, and what it is to a person."""
    places = [(folder_paths.base_path, "ComfyUI"), (folder_paths.models_dir, "models"),
              (folder_paths.get_output_directory(), "output"), (folder_paths.get_input_directory(), "input"),
              (folder_paths.get_temp_directory(), "temp"), (folder_paths.get_user_directory(), "user")]
    places += [(folder, kind) for kind, (folders, _) in folder_paths.folder_names_and_paths.items()
               for folder in folders]
    for folder, role in places:
        for path in {os.path.abspath(folder), os.path.realpath(folder)}:  # noqa: PTH100 (as the host writes it)
            if Path(path).parent != Path(path):  # a whole disk has no role
                whole = r"[\\/]+".join(map(re.escape, re.split(r"[\\/]+", path)))
                yield rf"(?<![\w/\\]){whole}(?=[\\/\s'\"),;:\]]|\.(?!\w)|$)", role
