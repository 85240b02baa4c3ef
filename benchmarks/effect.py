"""Error of Apply Adapter: every layout, at three strengths, on models shaped as 2B and as XL.

Through the host's own loader and its own patching; the error of a cell is the largest deviation of any weight from
strength * what was trained, relative to the largest change of its module.  The target is 1e-5 or less everywhere.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks._layouts import ROWS, Row, own
from benchmarks._writers import Made
from benchmarks.programs.judges import JUDGED, JUDGES, error
from tests.host.pack import pack_module

STRENGTHS = (1.0, 0.5, -1.0)
TARGET = 1e-5
SHAPES = {"2B": {"hidden_size": 64, "num_heads": 2}, "XL": {"hidden_size": 80, "num_heads": 4}}
"""Decoder sizes: 2B is as wide as its heads together, 2 to a key head; XL narrower than its heads, 4 to a key head."""
PREFIX = "diffusion_model.decoder."


@dataclass(frozen=True)
class Cell:
    """One adapter at one strength on one model."""

    row: str
    shape: str
    strength: float
    matched: int
    total: int
    error: float
    """Relative error of the worst weight."""
    effect: float
    """Projection of what was applied on what was trained; the strength, if all is right."""


def comfyui() -> ModuleType:
    """The package `comfy` of the host in COMFYUI_PATH."""
    host = os.environ["COMFYUI_PATH"]
    sys.path.insert(0, host)
    arguments, sys.argv = sys.argv, ["main.py", "--cpu", "--base-directory", host]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
    finally:
        sys.argv = arguments
    return sys.modules["comfy"]


def host_model(shape: str) -> Any:
    """The host's MODEL with a small random decoder of this shape."""
    import comfy.model_patcher
    import comfy.supported_models

    sizes = {"audio_model": "ace1.5", "num_dit_layers": 2, "num_kv_heads": 1, "head_dim": 32, "intermediate_size": 96,
             "encoder_hidden_size": 64, "encoder_intermediate_size": 8, "encoder_num_heads": 1, "num_lyric_layers": 1,
             "num_timbre_layers": 1, "fsq_dim": 8}
    config = comfy.supported_models.ACEStep15({**sizes, **SHAPES[shape]})
    # The host's own layers have no weights until a file is loaded into them, where it streams weights (DynamicVRAM).
    config.custom_operations = torch.nn
    model = config.get_model({}).float()
    random = torch.Generator().manual_seed(0)
    for parameter in model.diffusion_model.decoder.parameters():
        parameter.requires_grad_(False)
        parameter.data = torch.randn(parameter.shape, generator=random) * parameter[0].numel() ** -0.5
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def decoder_weights(model: Any) -> dict[str, Tensor]:
    """Matrices and convolutions by module name, as they are now; without the transposed convolution."""
    state = model.model.state_dict()
    return {key.removeprefix(PREFIX).removesuffix(".weight"): tensor.clone() for key, tensor in state.items()
            if key.startswith(PREFIX) and key.endswith(".weight") and tensor.dim() > 1 and "proj_out" not in key}


def applied(patched: Any) -> dict[str, Tensor]:
    """The weights that the host computes with, after its own patching; the model is as before."""
    patched.patch_model()
    try:
        return decoder_weights(patched)
    finally:
        patched.unpatch_model()


def compare(changed: Mapping[str, Tensor], base: Mapping[str, Tensor], made: Made, strength: float) -> tuple[
        float, float]:
    """(largest relative error, effect); a module that the adapter has not must be untouched."""
    error = projected = energy = 0.0
    for module, weight in base.items():
        if module not in made.truth:
            error = max(error, 0.0 if torch.equal(changed[module], weight) else float("inf"))
            continue
        found = changed[module].double() - weight.double()
        wanted = made.truth[module]
        error = max(error, float((found - strength * wanted).abs().max() / wanted.abs().max()))
        projected += float((found * wanted).sum())
        energy += float(wanted.square().sum())
    return error, projected / energy


def cells(name: str, row: Row, shape: str, model: Any, folder: Path) -> list[Cell]:
    """One adapter at every strength."""
    base = decoder_weights(model)
    made = row(folder, base)
    found = []
    for strength in STRENGTHS:
        patched, matched, total = pack_module("nodes.host.models").patch(model, made.path, strength, made.alpha)
        error, effect = compare(applied(patched), base, made, strength)
        found.append(Cell(name, shape, strength, matched, total, error, effect))
    return found


def measure(rows: Mapping[str, Row] = ROWS) -> list[Cell]:
    """Every row on both shapes."""
    found = []
    for shape in SHAPES:
        model = host_model(shape)
        for number, (name, row) in enumerate(rows.items()):
            with TemporaryDirectory() as folder:
                found += cells(name, row, shape, model, Path(folder) / str(number))
    return found


def judge() -> dict[str, float]:
    """Program -> the worst error of what it makes of our own LoRAs, on both shapes."""
    worst = dict.fromkeys(JUDGES, 0.0)
    for shape in SHAPES:
        weights = decoder_weights(host_model(shape))
        for config in JUDGED.values():
            for name, one in JUDGES.items():
                with TemporaryDirectory() as folder:
                    worst[name] = max(worst[name], error(one, own(config)(Path(folder), weights), weights))
    return worst


def main() -> int:
    comfyui()
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    found = measure()
    print(f"{'layout':32}  model  {'matched':>9}" + "".join(f"  at {strength:>4} (error)  " for strength in STRENGTHS))
    for at in range(0, len(found), len(STRENGTHS)):
        row = found[at : at + len(STRENGTHS)]
        print(f"{row[0].row:32}  {row[0].shape:5}  {row[0].matched:4}/{row[0].total:4}"
              + "".join(f"  {cell.effect:7.4f} ({cell.error:.0e})" for cell in row))
    worst = float(torch.tensor([cell.error for cell in found]).max())
    print(f"worst error {worst:.1e} (target <= {TARGET:.0e})")
    judges = judge()
    print("our own LoRAs elsewhere: " + ", ".join(f"{name} {far:.1e}" for name, far in judges.items()))
    print(json.dumps({"worst_error": worst, "cells": len(found), "judges": judges}))
    return 0 if max(worst, *judges.values()) <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
