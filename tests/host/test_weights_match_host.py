"""Our weight reader and ComfyUI's loader give the same numbers for every format of the same model, to the last bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from demo.synthetic_tensors import Fill, Geometry, model, tensors_of
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model.weights import Weights

pytestmark = pytest.mark.slow

HOST_SIZES = Geometry(
    heads=8, kv_heads=8, head_dim=128, encoder_heads=8, lyric_layers=8, timbre_layers=4, text_hidden=1024
)
"""Smallest sizes of the host's class: it fixes head size, key heads and the depths of its encoders."""
HOST_QUANTIZER = (
    ("tokenizer.quantizer.project_in.weight", Fill((6, 2048), 0.1)),
    ("tokenizer.quantizer.project_out.weight", Fill((2048, 6), 0.1)),
    ("tokenizer.quantizer.project_out.bias", Fill((2048,), 0.1)),
)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMATS = (
    "bf16", "fp16", "fp32", "fp8", "fp8_e5m2", "fp8_scaled_old", "fp8_scaled", "fp8_e5m2_scaled", "fp8_scaled_metadata",
    "int8", "int8_rows", "prefixed_bf16", "prefixed_int8_metadata",
)  # fmt: skip
Stored = tuple[dict[str, Tensor], dict[str, str]]
"""Tensors and metadata of a file."""


def plain() -> dict[str, Tensor]:
    tensors = tensors_of(model(HOST_SIZES), dtype=torch.float32)
    return tensors | tensors_of(iter(HOST_QUANTIZER), dtype=torch.float32)


def quantised_layers(tensors: dict[str, Tensor]) -> list[str]:
    """The layers that quantised files in use have quantised."""
    return [name[:-7] for name in tensors if name.startswith("decoder.layers.") and name.endswith("_proj.weight")]


def scaled(dtype: torch.dtype, scale_name: str, rows: bool = False) -> tuple[dict[str, Tensor], list[str]]:
    """All tensors, with the layers' weights as (quantised, scale); and the names of these layers."""
    tensors = {name: tensor.bfloat16() for name, tensor in plain().items()}
    layers = quantised_layers(tensors)
    largest = 127 if dtype == torch.int8 else torch.finfo(dtype).max
    for layer in layers:
        weight = tensors[f"{layer}.weight"].float()
        scale = (weight.abs().amax(1, keepdim=True) if rows else weight.abs().max()) / largest
        quantised = weight / scale
        tensors[f"{layer}.weight"] = (quantised.round() if dtype == torch.int8 else quantised).to(dtype)
        tensors[f"{layer}.{scale_name}"] = scale
    return tensors, layers


def with_settings(dtype: torch.dtype, name: str, rows: bool = False) -> Stored:
    """The layout with a `.comfy_quant` tensor for each layer."""
    tensors, layers = scaled(dtype, "weight_scale", rows)
    settings = torch.tensor(list(json.dumps({"format": name}).encode()), dtype=torch.uint8)
    return tensors | {f"{layer}.comfy_quant": settings.clone() for layer in layers}, {}


def with_metadata(dtype: torch.dtype, name: str, prefix: str = "") -> Stored:
    """The layout with the formats in the file's metadata."""
    tensors, layers = scaled(dtype, "weight_scale")
    formats = {prefix + layer: {"format": name} for layer in layers}
    prefixed = {prefix + key: tensor for key, tensor in tensors.items()}
    return prefixed, {"_quantization_metadata": json.dumps({"layers": formats})}


def stored_as(kind: str) -> Stored:
    """The model in one of FORMATS."""
    casts = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32,
             "fp8": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}  # fmt: skip
    if kind in casts:
        return {name: tensor.to(casts[kind]) for name, tensor in plain().items()}, {}
    if kind == "fp8_scaled_old":
        tensors, _ = scaled(torch.float8_e4m3fn, "scale_weight")
        return tensors | {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}, {}
    if kind == "prefixed_bf16":
        return {f"model.diffusion_model.{name}": tensor.bfloat16() for name, tensor in plain().items()}, {}
    return {
        "fp8_scaled": lambda: with_settings(torch.float8_e4m3fn, "float8_e4m3fn"),
        "fp8_e5m2_scaled": lambda: with_settings(torch.float8_e5m2, "float8_e5m2"),
        "fp8_scaled_metadata": lambda: with_metadata(torch.float8_e4m3fn, "float8_e4m3fn"),
        "int8": lambda: with_settings(torch.int8, "int8_tensorwise"),
        "int8_rows": lambda: with_settings(torch.int8, "int8_tensorwise", rows=True),
        "prefixed_int8_metadata": lambda: with_metadata(torch.int8, "int8_tensorwise", "model.diffusion_model."),
    }[kind]()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for each format, and a folder of the same name with what the host made of it."""
    folder = tmp_path_factory.mktemp("weights")
    for kind in FORMATS:
        tensors, metadata = stored_as(kind)
        write_tensors(folder / f"{kind}.safetensors", tensors, metadata)
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    script = Path(__file__).with_name("dump_host_weights.py")
    command = [python, str(script), os.environ["COMFYUI_PATH"], str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", FORMATS)
def test_weights_match_the_host(folder: Path, kind: str, precision: str) -> None:
    prefix = "model.diffusion_model." if kind.startswith("prefixed") else ""
    weights = Weights.open([folder / f"{kind}.safetensors"], prefix)
    host = read_tensors(folder / kind / f"{precision}.safetensors")
    assert weights.names == host.keys()
    for name, expected in host.items():
        ours = weights.tensor(name, PRECISIONS[precision], torch.device("cpu"))
        assert torch.equal(ours, expected), name


def test_quantised_weights_differ_from_original(folder: Path) -> None:
    """The twin: the comparison would notice a format that is read as another."""
    name = "decoder.layers.0.mlp.up_proj.weight"
    distinct = ("fp32", "bf16", "fp8", "fp8_e5m2", "fp8_scaled", "fp8_e5m2_scaled", "int8", "int8_rows")
    values = [read_tensors(folder / kind / "float32.safetensors")[name] for kind in distinct]
    for i, first in enumerate(values):
        assert not any(torch.equal(first, other) for other in values[i + 1 :]), distinct[i]
