"""Every stored format is dequantised exactly, or refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from demo.synthetic_model import write_tiny_models, write_tiny_official
from sidestep_core.errors import CheckpointError
from sidestep_core.io.atomic import write_json
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model.weights import Weights, weight_files

CPU = torch.device("cpu")
FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]
LAYER = "decoder.layers.0.mlp.up_proj"


def random_weight(*shape: int) -> Tensor:
    return torch.randn(shape or (48, 32), generator=torch.Generator().manual_seed(1))


def settings(**values: object) -> Tensor:
    """Build a `.comfy_quant` tensor."""
    return torch.tensor(list(json.dumps(values).encode()), dtype=torch.uint8)


def fp8(weight: Tensor, dtype: torch.dtype = torch.float8_e4m3fn) -> tuple[Tensor, Tensor]:
    """Quantise the weight to (fp8, scale)."""
    scale = weight.abs().max() / torch.finfo(dtype).max
    return (weight / scale).to(dtype), scale


def int8(weight: Tensor, rows: bool) -> tuple[Tensor, Tensor]:
    """Quantise the weight to (int8, scale), with one scale or one per row."""
    scale = (weight.abs().amax(1, keepdim=True) if rows else weight.abs().max()) / 127
    return (weight / scale).round().to(torch.int8), scale


def open_one(
    folder: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, prefix: str = ""
) -> Weights:
    path = folder / "model.safetensors"
    write_tensors(path, tensors, metadata)
    return Weights.open([path], prefix)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32, *FP8])
@pytest.mark.parametrize("asked", [torch.bfloat16, torch.float32])
def test_plain_formats_are_cast(tmp_path: Path, stored: torch.dtype, asked: torch.dtype) -> None:
    value = random_weight().to(stored)
    weights = open_one(tmp_path, {f"{LAYER}.weight": value})
    read = weights.tensor(f"{LAYER}.weight", asked, CPU)
    assert read.dtype == asked
    assert torch.equal(read, value.to(asked))


def scaled_layouts(dtype: torch.dtype) -> dict[str, tuple[dict[str, Tensor], dict[str, str]]]:
    """Return the three layouts of a scaled fp8 weight: tensors and metadata."""
    value, scale = fp8(random_weight(), dtype)
    name = "float8_e4m3fn" if dtype == torch.float8_e4m3fn else "float8_e5m2"
    metadata = {"_quantization_metadata": json.dumps({"layers": {LAYER: {"format": name}}})}
    return {
        "old": ({f"{LAYER}.weight": value, f"{LAYER}.scale_weight": scale, f"{LAYER}.scale_input": torch.ones(()),
                 "scaled_fp8": torch.empty(0, dtype=dtype)}, {}),
        "new": ({f"{LAYER}.weight": value, f"{LAYER}.weight_scale": scale,
                 f"{LAYER}.comfy_quant": settings(format=name)}, {}),
        "metadata": ({f"{LAYER}.weight": value, f"{LAYER}.weight_scale": scale,
                      f"{LAYER}.input_scale": torch.ones(())}, metadata),
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["old", "new", "metadata"])
@pytest.mark.parametrize("dtype", FP8)
def test_fp8_is_scaled(tmp_path: Path, layout: str, dtype: torch.dtype) -> None:
    tensors, metadata = scaled_layouts(dtype)[layout]
    weights = open_one(tmp_path, tensors, metadata)
    value, scale = fp8(random_weight(), dtype)
    assert weights.names == {f"{LAYER}.weight"}
    read = weights.tensor(f"{LAYER}.weight", torch.float32, CPU)
    assert torch.equal(read, value.float() * scale)
    assert not torch.equal(read, value.float())


@pytest.mark.parametrize("rows", [False, True])
def test_int8_is_scaled(tmp_path: Path, rows: bool) -> None:
    value, scale = int8(random_weight(), rows)
    quant = settings(format="int8_tensorwise")
    tensors = {f"{LAYER}.weight": value, f"{LAYER}.weight_scale": scale, f"{LAYER}.comfy_quant": quant}
    weights = open_one(tmp_path, tensors)
    read = weights.tensor(f"{LAYER}.weight", torch.bfloat16, CPU)
    assert torch.equal(read, (value.float() * scale).bfloat16())


UNREADABLE = {
    "nvfp4": (torch.uint8, {"format": "nvfp4"}),
    "mxfp8": (torch.float8_e4m3fn, {"format": "mxfp8"}),
    "convrot_w4a4": (torch.int8, {"format": "convrot_w4a4"}),
    "int8_tensorwise with convrot": (torch.int8, {"format": "int8_tensorwise", "convrot": True}),
    "float8_e9": (torch.float8_e4m3fn, {"format": "float8_e9"}),
    r"an unknown format \(U8\)": (torch.uint8, None),
    r"an unknown format \(I8\)": (torch.int8, None),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_other_quantisations_are_refused(tmp_path: Path, name: str) -> None:
    dtype, quant = UNREADABLE[name]
    tensors = {f"{LAYER}.weight": torch.zeros(4, 4).to(dtype), f"{LAYER}.weight_scale": torch.ones(())}
    if quant is not None:
        tensors[f"{LAYER}.comfy_quant"] = settings(**quant)
    with pytest.raises(CheckpointError, match=f"model.safetensors is quantised as {name}.*bf16"):
        open_one(tmp_path, tensors)


def test_nested_convrot_is_refused(tmp_path: Path) -> None:
    quant = settings(format="int8_tensorwise", params={"convrot": True})
    tensors = {f"{LAYER}.weight": torch.zeros(4, 4, dtype=torch.int8), f"{LAYER}.comfy_quant": quant}
    with pytest.raises(CheckpointError, match="with convrot"):
        open_one(tmp_path, tensors)


def test_bitsandbytes_is_named(tmp_path: Path) -> None:
    tensors = {f"{LAYER}.weight": torch.zeros(8, 1, dtype=torch.uint8),
               f"{LAYER}.weight.quant_state.bitsandbytes__nf4": torch.zeros(3, dtype=torch.uint8)}  # fmt: skip
    with pytest.raises(CheckpointError, match="bitsandbytes"):
        open_one(tmp_path, tensors)


def test_other_quantised_component_is_ignored(tmp_path: Path) -> None:
    tensors = {"lm.x.weight": torch.zeros(4, 4, dtype=torch.uint8), "lm.x.comfy_quant": settings(format="nvfp4"),
               "te.x.weight": random_weight()}  # fmt: skip
    assert open_one(tmp_path, tensors, prefix="te.").names == {"x.weight"}


def test_metadata_prefix_is_optional(tmp_path: Path) -> None:
    value, scale = int8(random_weight(), rows=False)
    for named in (f"net.{LAYER}", LAYER):
        metadata = {"_quantization_metadata": json.dumps({"layers": {named: {"format": "int8_tensorwise"}}})}
        tensors = {f"net.{LAYER}.weight": value, f"net.{LAYER}.weight_scale": scale}
        weights = open_one(tmp_path, tensors, metadata, prefix="net.")
        assert torch.equal(weights.tensor(f"{LAYER}.weight", torch.float32, CPU), value.float() * scale)


def test_missing_scale_is_refused(tmp_path: Path) -> None:
    quant = settings(format="float8_e4m3fn")
    tensors = {f"{LAYER}.weight": fp8(random_weight())[0], f"{LAYER}.comfy_quant": quant}
    with pytest.raises(CheckpointError, match="lacks the scale"):
        open_one(tmp_path, tensors).tensor(f"{LAYER}.weight", torch.float32, CPU)


def test_damaged_settings_are_refused(tmp_path: Path) -> None:
    tensors = {f"{LAYER}.weight": random_weight(), f"{LAYER}.comfy_quant": torch.tensor([123, 1], dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match="damaged"):
        open_one(tmp_path, tensors)
    with pytest.raises(CheckpointError, match="damaged quantisation metadata"):
        open_one(tmp_path, {f"{LAYER}.weight": random_weight()}, {"_quantization_metadata": "[]"})


def test_weights_are_no_inference_tensors(tmp_path: Path) -> None:
    tensors = scaled_layouts(torch.float8_e4m3fn)["new"][0] | {"plain.weight": random_weight()}
    weights = open_one(tmp_path, tensors)
    with torch.inference_mode():
        read = [weights.tensor(name, torch.float32, CPU) for name in sorted(weights.names)]
    factor = torch.ones(32, requires_grad=True)
    for weight in read:
        (weight * factor).sum().backward()
    assert factor.grad is not None
    assert torch.isfinite(factor.grad).all()


def test_views_drop_their_prefix(tmp_path: Path) -> None:
    paths = write_tiny_models(tmp_path)
    weights = Weights.open([paths.model])
    written = read_tensors(paths.model)
    assert weights.names == written.keys()
    decoder = weights.under("decoder.")
    assert decoder.names == {name[8:] for name in written if name.startswith("decoder.")}
    layer = decoder.under("layers.1.").tensor("mlp.up_proj.weight", torch.float32, CPU)
    assert torch.equal(layer, written["decoder.layers.1.mlp.up_proj.weight"].float())
    assert decoder.shape("proj_in.1.weight") == (64, 192, 2)
    with pytest.raises(CheckpointError, match="has no weight 'layers.9.x'"):
        decoder.tensor("layers.9.x", torch.float32, CPU)


def test_shards_read_like_one_file(tmp_path: Path) -> None:
    single = Weights.open(weight_files(write_tiny_official(tmp_path / "one").model))
    files = weight_files(write_tiny_official(tmp_path / "two", sharded=True).model)
    shards = Weights.open(files)
    assert len(files) == 2
    assert single.names == shards.names
    for name in single.names:
        assert torch.equal(single.tensor(name, torch.float32, CPU), shards.tensor(name, torch.float32, CPU))


def test_wrong_shards_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_official(tmp_path, sharded=True).model
    first, second = weight_files(folder)
    shutil.copyfile(first, second)
    with pytest.raises(CheckpointError, match=f"{second.name} repeats"):
        Weights.open([first, second])
    second.unlink()
    with pytest.raises(CheckpointError, match=f"lacks {second.name}"):
        weight_files(folder)


@pytest.mark.parametrize("index", [{"weight_map": {"a": "../a.safetensors"}}, {"weights": {}}, []])
def test_bad_index_is_refused(tmp_path: Path, index: object) -> None:
    write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)})
    write_json(tmp_path / "inner" / "model.safetensors.index.json", index)
    with pytest.raises(CheckpointError, match="shards"):
        weight_files(tmp_path / "inner")


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        weight_files(tmp_path)


NO_SAFETENSORS = {
    "a GGUF file": b"GGUF\x03\x00\x00\x00" + bytes(64),
    "a PyTorch pickle": b"PK\x03\x04" + bytes(64),
    "not a safetensors file": b"version https://git-lfs.github.com/spec/v1\n",
    "damaged": b"\x08\x00\x00\x00\x00\x00\x00\x00{'bad'}.",
    "cut off": b"\xff\x00\x00\x00\x00\x00\x00\x00{}",
    "is not a safetensors": b"",
}


@pytest.mark.parametrize("what", NO_SAFETENSORS)
def test_other_files_are_named(tmp_path: Path, what: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(NO_SAFETENSORS[what])
    with pytest.raises(CheckpointError, match=f"model.safetensors .*{what}"):
        Weights.open([path])


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write_tiny_models(tmp_path).model
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="cut off. Download it again"):
        Weights.open([path])
    path.write_bytes(content)
    assert Weights.open([path]).names


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone.safetensors does not exist"):
        Weights.open([tmp_path / "gone.safetensors"])
