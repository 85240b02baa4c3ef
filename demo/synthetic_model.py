"""Small ACE-Step 1.5 checkpoints with random weights: every file of a real one, made in seconds, always identical.

`write_demo_models` writes models that ComfyUI detects, loads and runs: about 2 GB, because ComfyUI fixes the sizes of
the text encoder, the VAE and the condition encoder.  The `write_tiny_*` functions shrink every width, for tests, in
each of the three layouts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sidestep_core.io.atomic import write_json
from sidestep_core.io.tensors import read_metadata, write_tensors

from .synthetic_tensors import (
    DEMO,
    FULL,
    STRIDES,
    VOCABULARY,
    XL_LIKE,
    Fill,
    Fills,
    Geometry,
    model,
    tensors_of,
    text_encoder,
    vae,
)

__all__ = ["DEMO", "XL_LIKE", "Geometry", "TinyPaths", "diffusers_vae", "write_demo_models", "write_tiny_all_in_one",
           "write_tiny_models", "write_tiny_official"]  # fmt: skip

VERSION = "1"
"""Version of the demo models.  Raise it when their weights change: files of another version are written again."""

DEMO_MODEL = Path("diffusion_models/acestep_v1.5_demo_turbo.safetensors")
FULL_MODEL = Path("diffusion_models/acestep_v1.5_demo_2b_turbo.safetensors")
DEMO_TEXT_ENCODER = Path("text_encoders/qwen_0.6b_ace15.safetensors")
DEMO_LANGUAGE_MODEL = Path("text_encoders/qwen_1.7b_ace15.safetensors")
DEMO_VAE = Path("vae/ace_1.5_vae.safetensors")

BF16 = torch.bfloat16


@dataclass(frozen=True, kw_only=True)
class TinyPaths:
    """Paths of a tiny checkpoint.  In the official layout `model` is the model's folder; in an all-in-one layout
    all three are one file."""

    model: Path
    text_encoder: Path
    vae: Path


def write_demo_models(models: Path, *, full_size: bool = False) -> None:
    """Write the four files that ComfyUI's UNETLoader, DualCLIPLoader (type ace) and VAELoader take, into the folders of
    a ComfyUI models folder.  With `full_size` the model is as big as the real 2B: 5 GB.  Files of this version are
    kept; a file of another origin raises FileExistsError."""
    fills = {
        FULL_MODEL if full_size else DEMO_MODEL: ("", model(FULL if full_size else DEMO)),
        DEMO_TEXT_ENCODER: ("model.", text_encoder(DEMO)),
        DEMO_LANGUAGE_MODEL: ("model.", _language_model_marks()),
        DEMO_VAE: ("", vae(DEMO)),
    }
    for file, (prefix, parts) in fills.items():
        path = models / file
        if path.exists():
            written = read_metadata(path).get("sidestep_demo")
            if written == VERSION:
                continue
            if written is None:
                raise FileExistsError(f"{path} is not a demo file. Choose another folder, or move this file away.")
        write_tensors(path, tensors_of(parts, prefix=prefix, dtype=BF16), {"sidestep_demo": VERSION})


def _language_model_marks() -> Fills:
    """Yield the two tensors by which ComfyUI recognises the 1.7B language model.  It allocates the rest and never
    touches it while no audio codes are generated."""
    yield "layers.0.post_attention_layernorm.weight", Fill((2048,), 0.0, 1.0)
    yield "layers.0.self_attn.q_norm.weight", Fill((128,), 0.0, 1.0)


def write_tiny_models(
    folder: Path,
    geometry: Geometry | None = None,
    *,
    variant: Literal["turbo", "base", "sft"] = "turbo",
    seed: int = 0,
    dtype: torch.dtype = BF16,
) -> TinyPaths:
    """Write ComfyUI's split layout: one file each for the model, the text encoder and the VAE."""
    size = geometry or Geometry()
    paths = TinyPaths(
        model=folder / f"acestep_v1.5_tiny_{variant}.safetensors",
        text_encoder=folder / "qwen_tiny_ace15.safetensors",
        vae=folder / "ace_1.5_tiny_vae.safetensors",
    )
    write_tensors(paths.model, tensors_of(model(size), seed=seed, dtype=dtype))
    write_tensors(paths.text_encoder, tensors_of(text_encoder(size), prefix="model.", seed=seed, dtype=dtype))
    write_tensors(paths.vae, tensors_of(vae(size), seed=seed, dtype=dtype))
    return paths


def write_tiny_all_in_one(folder: Path, geometry: Geometry | None = None, *, seed: int = 0) -> TinyPaths:
    """Write ComfyUI's checkpoint layout: everything in one file, distinguished by prefixes."""
    size = geometry or Geometry()
    path = folder / "ace_step_1.5_tiny_turbo_aio.safetensors"
    text_prefix = "text_encoders.qwen3_06b.transformer.model."
    tensors = tensors_of(model(size), prefix="model.diffusion_model.", seed=seed, dtype=BF16)
    tensors |= tensors_of(text_encoder(size), prefix=text_prefix, seed=seed, dtype=BF16)
    tensors |= tensors_of(vae(size), prefix="vae.", seed=seed, dtype=BF16)
    write_tensors(path, tensors)
    return TinyPaths(model=path, text_encoder=path, vae=path)


def write_tiny_official(
    folder: Path,
    geometry: Geometry | None = None,
    *,
    sharded: bool = False,
    name: str = "acestep-v15-turbo",
    is_turbo: bool = True,
    seed: int = 0,
) -> TinyPaths:
    """Write the official layout: `folder` gets the sibling folders of the model, the text encoder and the VAE."""
    size = geometry or Geometry()
    paths = TinyPaths(model=folder / name, text_encoder=folder / "Qwen3-Embedding-0.6B", vae=folder / "vae")
    _write_official_model(paths.model, tensors_of(model(size), seed=seed, dtype=BF16), sharded)
    config = {
        "architectures": ["AceStepConditionGenerationModel"],
        "is_turbo": is_turbo,
        "model_version": "turbo" if is_turbo else "base",
        "timestep_mu": -0.4,
        "timestep_sigma": 1.0,
    }
    write_json(paths.model / "config.json", config)
    silence = tensors_of(iter([("silence", Fill((1, 64, 15000), 0.5))]), seed=seed, dtype=torch.float32)
    torch.save(silence["silence"], paths.model / "silence_latent.pt")

    write_json(paths.text_encoder / "config.json", _text_encoder_config(size))
    text_tensors = tensors_of(text_encoder(size), seed=seed, dtype=BF16)
    write_tensors(paths.text_encoder / "model.safetensors", text_tensors)

    write_json(paths.vae / "config.json", _vae_config(size))
    vae_tensors = tensors_of(vae(size), seed=seed, dtype=torch.float32)
    write_tensors(paths.vae / "diffusion_pytorch_model.safetensors", diffusers_vae(vae_tensors))
    return paths


def _text_encoder_config(size: Geometry) -> dict[str, object]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": VOCABULARY,
        "hidden_size": size.text_hidden,
        "intermediate_size": size.text_mlp,
        "num_hidden_layers": size.text_layers,
        "num_attention_heads": size.text_heads,
        "num_key_value_heads": size.text_kv_heads,
        "head_dim": size.text_head_dim,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "tie_word_embeddings": True,
    }


def _vae_config(size: Geometry) -> dict[str, object]:
    return {
        "_class_name": "AutoencoderOobleck",
        "encoder_hidden_size": size.vae_channels,
        "downsampling_ratios": list(STRIDES),
        "channel_multiples": list(size.vae_widths[1:]),
        "decoder_channels": size.vae_channels,
        "decoder_input_channels": 64,
        "audio_channels": 2,
        "sampling_rate": 48000,
    }


def _write_official_model(folder: Path, tensors: dict[str, Tensor], sharded: bool) -> None:
    """Write one bf16 file like the 2B model, or two fp32 shards and an index like the XL model."""
    if not sharded:
        write_tensors(folder / "model.safetensors", tensors)
        return
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        write_tensors(folder / file, {name: tensors[name].float() for name in part})
    weight_map = {name: file for file, part in shards.items() for name in part}
    total = sum(tensor.numel() * 4 for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)


def diffusers_vae(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape the VAE's tensors for diffusers' AutoencoderOobleck."""
    return {_diffusers_name(name): _diffusers_shape(name, tensor) for name, tensor in tensors.items()}


def _diffusers_shape(name: str, tensor: Tensor) -> Tensor:
    return tensor[None, :, None] if name.endswith((".alpha", ".beta")) else tensor


_BLOCK_PARTS = {
    "encoder": ("res_unit1", "res_unit2", "res_unit3", "snake1", "conv1"),
    "decoder": ("snake1", "conv_t1", "res_unit1", "res_unit2", "res_unit3"),
}
_UNIT_PARTS = ("snake1", "conv1", "snake2", "conv2")
_NAME = re.compile(r"(encoder|decoder)\.layers\.(\d+)(?:\.layers\.(\d+))?(?:\.layers\.(\d+))?\.(\w+)")


def _diffusers_name(name: str) -> str:
    match = _NAME.fullmatch(name)
    assert match is not None, name
    side, layer, part, unit, parameter = match.groups()
    if part is None:
        top = {0: "conv1", 6: "snake1", 7: "conv2"}[int(layer)]
        return f"{side}.{top}.{parameter}"
    names = [side, "block", str(int(layer) - 1), _BLOCK_PARTS[side][int(part)]]
    if unit is not None:
        names.append(_UNIT_PARTS[int(unit)])
    return ".".join([*names, parameter])
