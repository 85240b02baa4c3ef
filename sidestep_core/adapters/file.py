"""Adapter files: written so that strength 1.0 means what was trained, and proven to by reading them back.

The proof compares, module by module, what the live adapter adds to a weight with what a loader makes of the file.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import AdapterError
from ..io import atomic, hashing, strict_json
from ..io.record import parse
from ..io.tensors import BadTensorFile, json_metadata, read_metadata, write_tensors
from . import peft_layout

METADATA_KEY = "sidestep"
EFFECT_TOLERANCE = 1e-3
ERROR_TOLERANCE = 1e-5

DeltaFn = Callable[[str, Tensor], Tensor | None]
"""(module name, its weight) -> what a loaded file adds to that weight at strength 1.0; None if the file has nothing."""

Loader = Callable[[Path], DeltaFn]
"""Opens an adapter file the way some program does."""


@dataclass(frozen=True, kw_only=True)
class TrainedDelta:
    """What a live adapter adds to the weight of one module, both on the CPU and of one dtype."""

    module: str
    weight: Tensor
    """The base weight in float64 where the change depends on it; else zeros of its shape in float32."""
    delta: Tensor


class LiveAdapter(Protocol):
    """An adapter attached to a decoder, of whichever kind."""

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """All that trains, float32, in an order that does not change."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The adapter's file content."""
        ...

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Put saved content back, bit for bit.  AdapterError, before anything changes, when it is not of this one."""
        ...

    def deltas(self, every: int = 1) -> Iterator[TrainedDelta]:
        """What it adds to the weight of every n-th module."""
        ...


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
    trigger_word: str = ""
    """Word that calls the trained style, for the prompt."""
    steps: int = 0
    heldout_first: float | None = None
    """Held-out loss of the base model, before the first step."""
    heldout_last: float | None = None
    measured_on: str = ""
    """Songs that these two were measured on: "held_out" or "trained"; empty where it is not known."""
    proof: Proof | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Adapter:
        proof = values["proof"]
        return cls(**{**values, "path": Path(values["path"]), "proof": None if proof is None else Proof(**proof)})


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write an adapter with everything needed to know later what it is, and for diffusers how strong it is."""
    write_tensors(path, tensors, {METADATA_KEY: json.dumps(facts)} | peft_layout.header(tensors))


def write_peft_config(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the adapter_config.json of a LoRA."""
    atomic.write_json(path, peft_layout.settings(tensors))


def write_peft_weights(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write the file beside that: the same numbers, and the strength in settings only."""
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
    """What is written in an adapter file about it; nothing in foreign ones.  BadTensorFile or BadJson where that is
    damaged."""
    return json_metadata(read_metadata(path), METADATA_KEY, f"The metadata of {path.name}")


def check_belongs(saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """AdapterError, naming the first difference, unless `saved` has the names, shapes and alphas of `own`.

    An alpha in float64 is trained (see lycoris.py), and may differ.
    """
    for name in {**own, **saved}:
        if name not in own:
            raise AdapterError(f"{name} is in the saved adapter, but this run has nothing of that name. It belongs to "
                               "another run.")
        if name not in saved or saved[name].shape != own[name].shape:
            found = f"of shape {tuple(saved[name].shape)}" if name in saved else "missing"
            raise AdapterError(f"{name} is {found} in the saved adapter; this run needs {tuple(own[name].shape)}. It "
                               "belongs to another run.")
        fixed = name.endswith(".alpha") and own[name].dtype == torch.float32
        if fixed and float(saved[name]) != float(own[name]):
            raise AdapterError(f"{name} is {float(saved[name]):g} in the saved adapter; this run needs "
                               f"{float(own[name]):g}. It belongs to another run.")


def prove(path: Path, live: Iterable[TrainedDelta], load: Loader) -> Proof:
    """Evidence that the file, opened by `load`, adds what the live adapter adds.  AdapterError if it does not, or if
    that is nothing."""
    added = load(path)
    total = matched = 0
    projected = energy = 0.0
    deviations = [0.0]
    for change in live:
        total += 1
        trained = change.delta
        found = added(change.module, change.weight)
        if found is None:
            continue
        found = found.to(trained.dtype)
        matched += 1
        projected += float(torch.dot(found.flatten(), trained.flatten()))
        energy += float(torch.dot(trained.flatten(), trained.flatten()))
        deviation, scale = float((found - trained).abs().max()), float(trained.abs().max())
        if deviation != 0:
            deviations.append(deviation / scale if scale > 0 else math.inf)
    if matched < total:
        raise AdapterError(f"{path} was written, but loading it back found {matched} of {total} modules. "
                           "It is not usable; please report this.")
    if energy == 0:
        raise AdapterError(f"The adapter changes nothing after training (what it adds to its {total} modules is zero). "
                           "Train for more steps or raise the learning rate.")
    # torch's maximum, unlike Python's, does not lose a value that is not a number.
    error = float(torch.tensor(deviations).max())
    proof = Proof(matched=matched, total=total, effect=projected / energy, error=error)
    if not (abs(proof.effect - 1) <= EFFECT_TOLERANCE and proof.error <= ERROR_TOLERANCE):
        raise AdapterError(f"{path} was written, but loading it back gives {proof.effect:.3f} of the trained effect "
                           f"(largest deviation {proof.error:.1e}). It is not usable; please report this.")
    return proof


def rehearse(path: Path, live: Iterable[TrainedDelta], load: Loader) -> None:
    """Open an adapter file as it will be proven, before anything is trained.  AdapterError if that cannot be."""
    try:
        added = load(path)
        unread = [change.module for change in live if added(change.module, change.weight) is None]
    except Exception as error:  # noqa: BLE001 (another program's; whatever it is, no training may end in it)
        raise AdapterError(f"An adapter of this model cannot be read back here ({error}), so nothing was trained. "
                           "Update the program that generates, and report this if that does not help.") from error
    if unread:
        raise AdapterError(f"An adapter of this model is not read back whole here: {unread[0]} is not found. Nothing "
                           "was trained. Update the program that generates, and report this if that does not help.")


def publish(source: Path, target: Path) -> Path:
    """Copy a proven adapter to where it is used, under the first free name: name, name-2, name-3 ...

    A name is never used twice, by whichever process: loaders cache by path and would go on using the old content.  The
    same content is not put there twice either.
    """
    content = hashing.hash_file(source)
    free, number = target, 1
    while not atomic.write_new(free, lambda temporary: shutil.copyfile(source, temporary)):
        if free.is_file() and hashing.hash_file(free) == content:
            return free
        number += 1
        free = target.with_stem(f"{target.stem}-{number}")
    return free


def content_fingerprint(path: Path) -> str:
    """Changes with any byte of the file."""
    return hashing.hash_file(path)[:16]
