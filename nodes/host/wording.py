"""Text for people: errors as sentences, stages with the names of their nodes, places by their role in ComfyUI.

Everything that a node sends to the page passes through here, in `reporting.py` and in `routes/`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import folder_paths

from ...sidestep_core.errors import SideStepError
from ...sidestep_core.sentence import Sentence

STAGES = {
    "preprocess the songs": "Audio Folder to Dataset",
    "estimate the gradients": "Estimate Gradients",
    "apply the adapter": "Apply Adapter",
    "merge the adapter": "Merge Adapter",
}
"""Phrase for a stage in messages of the core -> name of its node on the screen."""
_STAGE = re.compile(rf"\b({'|'.join(STAGES)})\b((?: again)?)(?! again| \()", re.IGNORECASE)

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
"""All but the last name of an absolute path."""


def sentence(error: Exception) -> str:
    """Turn an error into a sentence for people: our own are sentences already, others get their kind."""
    if isinstance(error, SideStepError):
        return readable(str(error))
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{Path(os.fsdecode(error.filename)).name}: {error.strerror}."
    return readable(f"Unexpected error: {type(error).__name__}: {error}. "
                          "Please report it, with ComfyUI's log.")


def readable_json(content: Any) -> Any:
    """Copy of a JSON value with `readable` applied to every text in it, and sentences in parts for the page."""
    if isinstance(content, Sentence):
        return readable_json(content.to_json())
    if isinstance(content, str):
        return readable(content)
    if isinstance(content, Mapping):
        return {key: readable_json(value) for key, value in content.items()}
    return [readable_json(value) for value in content] if isinstance(content, (list, tuple)) else content


def readable(text: str) -> str:
    """Text without places of the server, with a node's name behind each stage: `preprocess the songs again (...)`."""
    return with_nodes(without_places(text))


def with_nodes(text: str) -> str:
    """Add the name of its node, once, to each stage that the text sends a person to."""
    return _STAGE.sub(lambda found: f"{found[0]} ({STAGES[found[1].lower()]})", text)


def without_places(text: str) -> str:
    """Replace full paths by `loras/a.safetensors` or `output/b`, and any other place by its last name."""
    if "/" not in text and "\\" not in text:
        return text
    for folder, role in sorted(_roles(), key=lambda item: -len(item[0])):
        text = re.sub(folder, lambda _, role=role: role, text, flags=re.IGNORECASE if os.name == "nt" else 0)
    return _BEGINNING.sub("", text)


def _roles() -> Iterator[tuple[str, str]]:
    """Pattern of each folder of ComfyUI, and its name for a person."""
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
