"""Proof that an adapter file means what was trained: module by module, the trained delta against that of a loader."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import AdapterError
from ..io.record import Record
from .algorithm import TrainedDelta

EFFECT_TOLERANCE = 1e-3
ERROR_TOLERANCE = 1e-5

DeltaFn = Callable[[str, Tensor], Tensor | None]
"""(module name, its weight) -> delta of a loaded file at strength 1.0; None for modules that it does not have."""

Loader = Callable[[Path], DeltaFn]
"""Opens an adapter file as some program does."""


@dataclass(frozen=True, kw_only=True)
class Proof(Record):
    """Comparison of an adapter file, as a loader reads it, with the trained adapter."""

    matched: int
    total: int
    """Modules that the loader found in the file, of those that were trained."""
    effect: float
    """Projection of the file's delta on the trained one: 1.00 means that strength 1.0 is the trained strength."""
    error: float
    """Largest deviation of any weight, relative to the largest weight of its module's delta."""


def prove(path: Path, live: Iterable[TrainedDelta], load: Loader) -> Proof:
    """Compare the file, opened by `load`, with the live adapter.  AdapterError where they differ, or where both are
    zero."""
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
    # torch's maximum, unlike Python's, keeps NaN.
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
