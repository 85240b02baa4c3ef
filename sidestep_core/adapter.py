"""Adapter files: written so that strength 1.0 means what was trained, and proven to by reading them back.

The proof compares, module by module, what the live adapter adds to a weight with what a loader makes of the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import storage
from .errors import AdapterError

METADATA_KEY = "sidestep"
EFFECT_TOLERANCE = 1e-3
ERROR_TOLERANCE = 1e-5

Added = Callable[[str, tuple[int, ...]], Tensor | None]
"""(module name, shape of its weight) -> what a loaded file adds to it at strength 1.0; None if the file has nothing."""

Loader = Callable[[Path], Added]
"""Opens an adapter file the way some program does."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What a loader made of an adapter file, against the adapter that was trained."""

    matched: int
    total: int
    """Modules that the loader found in the file, of those that were trained."""
    effect: float
    """Projection of what the file adds on what was trained: 1.00 means strength 1.0 is the trained strength."""
    error: float
    """Largest deviation of any weight, relative to the largest weight of its module's change."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Handle of an adapter file, with what is known about it (a foreign file has only a path)."""

    path: Path
    checkpoint: str = ""
    """Fingerprint of the checkpoint it was trained on."""
    variant: str = ""
    tag: str = ""
    """Trigger word, to be used in the prompt."""
    steps: int = 0
    heldout_first: float | None = None
    """Held-out loss of the base model, before the first step."""
    heldout_last: float | None = None
    proof: Proof | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Adapter:
        proof = values["proof"]
        return cls(**{**values, "path": Path(values["path"]), "proof": None if proof is None else Proof(**proof)})


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write an adapter with everything needed to know later what it is; AdapterError if it would change nothing."""
    ups = [tensor for name, tensor in tensors.items() if ".lora_B." in name]
    if not any(torch.count_nonzero(tensor) for tensor in ups):
        raise AdapterError(f"The adapter changes nothing after training (all of its {len(ups)} output matrices are "
                           "zero). Train for more steps or raise the learning rate.")
    # One key only: safetensors writes several in any order, and the same adapter would not be the same file.
    storage.write_tensors(path, tensors, {METADATA_KEY: json.dumps(facts)})


def open_adapter(path: Path) -> Adapter:
    """The handle of an adapter file of any origin.  AdapterError when it is missing or not safetensors."""
    if not path.is_file():
        raise AdapterError(f"There is no adapter file {path}. Choose one from the list, or train one.")
    if path.suffix != ".safetensors":
        raise AdapterError(f"{path.name} is not a safetensors file. Other formats can run code when opened; "
                           "convert it to safetensors first.")
    try:
        facts = json.loads(storage.read_metadata(path).get(METADATA_KEY, "{}"))
    except (storage.BadTensorFile, ValueError) as error:
        raise AdapterError(f"{path.name} is damaged or not a safetensors file ({error}).") from error
    if not isinstance(facts, dict):
        raise AdapterError(f"{path.name} is damaged: its metadata is {facts!r}.")
    return Adapter(path=path, checkpoint=facts.get("checkpoint", ""), variant=facts.get("variant", ""),
                   tag=facts.get("tag", ""), steps=facts.get("steps", 0))


def read_deltas(path: Path) -> Added:
    """This module's own loader, for files that it wrote: W + (alpha / rank) * B @ A."""
    tensors = storage.read_tensors(path)

    def added(module: str, shape: tuple[int, ...]) -> Tensor | None:
        down = tensors.get(f"base_model.model.{module}.lora_A.weight")
        up = tensors.get(f"base_model.model.{module}.lora_B.weight")
        alpha = tensors.get(f"base_model.model.{module}.alpha")
        if down is None or up is None or alpha is None:
            return None
        return (up.float() @ down.float() * (alpha / down.shape[0])).reshape(shape)

    return added


def prove(path: Path, live: Iterable[tuple[str, Tensor]], load: Loader) -> Proof:
    """Evidence that the file, opened by `load`, adds what the live adapter adds.  AdapterError if it does not."""
    added = load(path)
    total = matched = 0
    projected = energy = 0.0
    deviations = [0.0]
    for module, trained in live:
        total += 1
        found = added(module, tuple(trained.shape))
        if found is None:
            continue
        matched += 1
        projected += float(torch.dot(found.flatten(), trained.flatten()))
        energy += float(torch.dot(trained.flatten(), trained.flatten()))
        scale = float(trained.abs().max())
        if scale > 0:
            deviations.append(float((found - trained).abs().max()) / scale)
    if matched < total or energy == 0:
        raise AdapterError(f"{path} was written, but loading it back found {matched} of {total} modules. "
                           "It is not usable; please report this.")
    # torch's maximum, unlike Python's, does not lose a value that is not a number.
    error = float(torch.tensor(deviations).max())
    proof = Proof(matched=matched, total=total, effect=projected / energy, error=error)
    if not (abs(proof.effect - 1) <= EFFECT_TOLERANCE and proof.error <= ERROR_TOLERANCE):
        raise AdapterError(f"{path} was written, but loading it back gives {proof.effect:.3f} of the trained effect "
                           f"(largest deviation {proof.error:.1e}). It is not usable; please report this.")
    return proof


def publish(source: Path, target: Path) -> Path:
    """Copy a proven adapter to where it is used, under the first free name: name, name-2, name-3 ...

    A name is never used twice: loaders cache by path and would go on using the old content.  The same content is not
    put there twice either.
    """
    content = storage.hash_file(source)
    free, number = target, 1
    while free.exists():
        if free.is_file() and storage.hash_file(free) == content:
            return free
        number += 1
        free = target.with_stem(f"{target.stem}-{number}")
    storage.copy(source, free)
    return free


def content_fingerprint(path: Path) -> str:
    """Changes with any byte of the file."""
    return storage.hash_file(path)[:16]
