"""Adapter files: written so that strength 1.0 means what was trained, and published under a free name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import AdapterError
from ..io import atomic, hashing, strict_json
from ..io.record import Record, parse
from ..io.tensors import BadTensorFile, json_metadata, read_metadata, write_tensors
from . import peft_layout
from .proof import Proof

METADATA_KEY = "sidestep"
MAX_FACTS_BYTES = 1_000_000
"""Metadata precede the tensors in a header; those of our files are far smaller."""


@dataclass(frozen=True, kw_only=True)
class Adapter(Record):
    """Handle of an adapter file, with what is known about it (a foreign file has only a path)."""

    path: Path
    checkpoint: str = ""
    """Fingerprint of the checkpoint it was trained on."""
    variant: str = ""
    trigger_word: str = ""
    """Word that calls the trained style, for the prompt."""
    steps: int = 0
    heldout_first: float | None = None
    """Held-out loss of the base model, before the first step."""
    heldout_last: float | None = None
    measured_on: str = ""
    """Songs that these two were measured on: "held_out" or "trained"; empty where it is not known."""
    proof: Proof | None = None


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write an adapter with everything needed to know later what it is, and for diffusers how strong it is."""
    write_tensors(path, tensors, {METADATA_KEY: json.dumps(facts)} | peft_layout.header(tensors))


def write_peft_config(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the adapter_config.json of a LoRA."""
    atomic.write_json(path, peft_layout.settings(tensors))


def write_peft_weights(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write the weights that go with that config, without `.alpha` tensors."""
    metadata = {"format": "pt", METADATA_KEY: json.dumps(facts)} | peft_layout.header(tensors)
    write_tensors(path, peft_layout.without_alphas(tensors), metadata)


def open_adapter(path: Path) -> Adapter:
    """The handle of an adapter file of any origin.  AdapterError when it is missing or not safetensors."""
    if not path.is_file():
        raise AdapterError(f"There is no adapter file {path}. Choose one from the list, or train one.")
    if path.suffix != ".safetensors":
        raise AdapterError(f"{path.name} is not a safetensors file. Other formats can run code when opened; "
                           "convert it to safetensors first.")
    try:
        values = facts_of(path)
        return Adapter(path=path, checkpoint=parse(values.get("checkpoint", ""), str, "checkpoint"),
                       variant=parse(values.get("variant", ""), str, "variant"),
                       trigger_word=_trigger_word(values),
                       steps=parse(values.get("steps", 0), int, "steps"))
    except (BadTensorFile, strict_json.BadJson) as error:
        raise AdapterError(f"{path.name} is damaged or not a safetensors file ({error}).") from error


def _trigger_word(facts: Mapping[str, Any]) -> str:
    """Trigger word of an adapter; the first adapters called it `tag`."""
    found: str = parse(facts.get("trigger_word", facts.get("tag", "")), str, "trigger_word")
    return found


def facts_of(path: Path) -> dict[str, Any]:
    """Facts written in an adapter file about it; empty for foreign ones.  BadTensorFile or BadJson where that is
    damaged."""
    return json_metadata(read_metadata(path), METADATA_KEY, f"The metadata of {path.name}")


def holds_facts(path: Path) -> bool:
    """Return True if the file seems to hold facts about itself; reads its beginning only."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return f'"{METADATA_KEY}":'.encode() in file.read(min(size, MAX_FACTS_BYTES))
    except OSError:
        return False


def publish(source: Path, target: Path) -> Path:
    """Copy a proven adapter to where it is used, under the first free name: name, name-2, name-3 ...

    A name is never used twice, by whichever process: loaders cache by path and would go on using the old content.  The
    same content is not put there twice either.
    """
    content = hashing.hash_file(source)
    return next(path for path in atomic.numbered(target)
                if atomic.write_new(path, lambda temporary: shutil.copyfile(source, temporary))
                or (path.is_file() and hashing.hash_file(path) == content))


def content_fingerprint(path: Path) -> str:
    """Changes with any byte of the file."""
    return hashing.hash_file(path)[:16]
