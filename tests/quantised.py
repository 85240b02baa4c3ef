"""Checkpoints whose decoder is stored in fewer bits."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from sidestep_core.io.tensors import read_tensors, write_tensors

STYLES = ("plain", "marked", "declared", "int8")


def quantise(path: Path, style: str, prefix: str = "") -> dict[str, Tensor]:
    """Make every projection of the decoder fp8 or int8, in one of the layouts in use."""
    tensors, layers = read_tensors(path), {}
    for name in [name for name in tensors if name.startswith(f"{prefix}decoder.") and "_proj.weight" in name]:
        layer, scale = name.removesuffix(".weight"), torch.tensor(0.01)
        if style == "int8":
            tensors[name] = (tensors[name].float() / scale).round().clamp(-127, 127).to(torch.int8)
            tensors[f"{layer}.comfy_quant"] = torch.tensor(list(b'{"format":"int8_tensorwise"}'), dtype=torch.uint8)
        else:
            tensors[name] = (tensors[name].float() / (scale if style != "plain" else 1)).to(torch.float8_e4m3fn)
        if style in ("int8", "declared"):
            tensors[f"{layer}.weight_scale"] = scale
            layers[layer] = {"format": "float8_e4m3fn"}
        elif style == "marked":
            tensors[f"{layer}.scale_weight"] = scale
    if style == "marked":
        tensors[f"{prefix}scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    layers |= {"text.layer": {"format": "float8_e4m3fn"}}
    tensors["text.layer.weight"] = torch.zeros(3, dtype=torch.float8_e4m3fn)
    declared = {"_quantization_metadata": json.dumps({"layers": layers})} if style == "declared" else {}
    write_tensors(path, tensors, declared)
    return tensors
