"""Tensors of an ACE-Step 1.5 checkpoint by name, shape and scale, filled with random numbers.

Scales keep activations near 1, so that fp32, bf16 and fp16 all stay finite.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

VOCABULARY = 151669
STRIDES = (2, 4, 4, 6, 10)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of a checkpoint.  `encoder_*` is the condition encoder, `text_*` the Qwen3 text encoder."""

    layers: int = 2
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    mlp: int = 96
    encoder_hidden: int = 64
    encoder_heads: int = 4
    encoder_mlp: int = 96
    lyric_layers: int = 2
    timbre_layers: int = 2
    pooler_layers: int = 2
    text_hidden: int = 32
    text_layers: int = 2
    text_heads: int = 2
    text_kv_heads: int = 1
    text_head_dim: int = 16
    text_mlp: int = 64
    vae_channels: int = 2
    vae_widths: tuple[int, ...] = (1, 1, 2, 4, 8, 16)
    """Widths of the VAE's stages, in units of vae_channels.  diffusers builds it for 128 channels only."""


DEMO = Geometry(
    layers=4, hidden=256, heads=8, kv_heads=8, head_dim=128, mlp=512,
    encoder_hidden=2048, encoder_heads=8, encoder_mlp=256, lyric_layers=8, timbre_layers=4,
    text_hidden=1024, text_layers=28, text_heads=16, text_kv_heads=8, text_head_dim=128, text_mlp=3072,
    vae_channels=128,
)  # fmt: skip
"""Smallest sizes that ComfyUI 0.30 runs in full: it fixes head size 128, 8 key heads, encoder width 2048, 8 + 4 layers,
and the whole text encoder and VAE."""
FULL = replace(DEMO, layers=24, hidden=2048, heads=16, mlp=6144, encoder_heads=16, encoder_mlp=6144)
"""Sizes of the real 2B, the only ones that ComfyUI before 0.19 builds: it reads none of them from the file."""
XL_LIKE = Geometry(layers=3, hidden=96, heads=6, kv_heads=2, mlp=128)
"""Decoder wider than the condition encoder, as in XL."""


@dataclass(frozen=True)
class Fill:
    """Normal distribution that one tensor is drawn from."""

    shape: tuple[int, ...]
    std: float
    mean: float = 0.0


Fills = Iterator[tuple[str, Fill]]


def _linear(name: str, outputs: int, inputs: int, bias: bool = True) -> Fills:
    yield f"{name}.weight", Fill((outputs, inputs), inputs**-0.5)
    if bias:
        yield f"{name}.bias", Fill((outputs,), 0.1)


def _norm(name: str, width: int, mean: float = 1.0) -> Fills:
    yield f"{name}.weight", Fill((width,), 0.1, mean)


def _attention(name: str, width: int, heads: int, kv_heads: int, head_dim: int) -> Fills:
    yield from _linear(f"{name}.q_proj", heads * head_dim, width, bias=False)
    yield from _linear(f"{name}.k_proj", kv_heads * head_dim, width, bias=False)
    yield from _linear(f"{name}.v_proj", kv_heads * head_dim, width, bias=False)
    yield from _linear(f"{name}.o_proj", width, heads * head_dim, bias=False)
    # Above 1, so that attention is selective and a wrong mask or position shows.
    yield from _norm(f"{name}.q_norm", head_dim, mean=1.5)
    yield from _norm(f"{name}.k_norm", head_dim, mean=1.5)


def _mlp(name: str, width: int, inner: int) -> Fills:
    yield from _linear(f"{name}.gate_proj", inner, width, bias=False)
    yield from _linear(f"{name}.up_proj", inner, width, bias=False)
    yield from _linear(f"{name}.down_proj", width, inner, bias=False)


def _encoder_layers(name: str, count: int, width: int, heads: int, kv_heads: int, head_dim: int, mlp: int) -> Fills:
    for index in range(count):
        layer = f"{name}layers.{index}"
        yield from _attention(f"{layer}.self_attn", width, heads, kv_heads, head_dim)
        yield from _norm(f"{layer}.input_layernorm", width)
        yield from _norm(f"{layer}.post_attention_layernorm", width)
        yield from _mlp(f"{layer}.mlp", width, mlp)


def _decoder(size: Geometry) -> Fills:
    width = size.hidden
    yield "decoder.proj_in.1.weight", Fill((width, 192, 2), 384**-0.5)
    yield "decoder.proj_in.1.bias", Fill((width,), 0.1)
    for embedding in ("decoder.time_embed", "decoder.time_embed_r"):
        yield from _linear(f"{embedding}.linear_1", width, 256)
        yield from _linear(f"{embedding}.linear_2", width, width)
        yield from _linear(f"{embedding}.time_proj", 6 * width, width)
    yield from _linear("decoder.condition_embedder", width, size.encoder_hidden)
    for index in range(size.layers):
        layer = f"decoder.layers.{index}"
        for part in ("self_attn", "cross_attn"):
            yield from _norm(f"{layer}.{part}_norm", width)
            yield from _attention(f"{layer}.{part}", width, size.heads, size.kv_heads, size.head_dim)
        yield from _norm(f"{layer}.mlp_norm", width)
        yield from _mlp(f"{layer}.mlp", width, size.mlp)
        yield f"{layer}.scale_shift_table", Fill((1, 6, width), 0.3)
    yield from _norm("decoder.norm_out", width)
    yield "decoder.proj_out.1.weight", Fill((width, 64, 2), width**-0.5)
    yield "decoder.proj_out.1.bias", Fill((64,), 0.1)
    yield "decoder.scale_shift_table", Fill((1, 2, width), 0.3)


def _conditioning(size: Geometry) -> Fills:
    width = size.encoder_hidden
    yield from _linear("encoder.text_projector", width, size.text_hidden, bias=False)
    for part, inputs, count in (
        ("lyric_encoder", size.text_hidden, size.lyric_layers),
        ("timbre_encoder", 64, size.timbre_layers),
    ):
        yield from _linear(f"encoder.{part}.embed_tokens", width, inputs)
        yield from _norm(f"encoder.{part}.norm", width)
        sizes = (size.encoder_heads, size.kv_heads, size.head_dim, size.encoder_mlp)
        yield from _encoder_layers(f"encoder.{part}.", count, width, *sizes)
    yield "encoder.timbre_encoder.special_token", Fill((1, 1, width), 1.0)
    yield "null_condition_emb", Fill((1, 1, width), 1.0)


def _audio_tokens(size: Geometry) -> Fills:
    width, pooler = size.encoder_hidden, "tokenizer.attention_pooler"
    # The host builds these layers with 16 heads, 8 key heads and a triple MLP whatever the rest of the model has.
    heads, kv_heads = (16, 8) if size.head_dim == 128 else (size.encoder_heads, size.kv_heads)
    sizes = (size.pooler_layers, width, heads, kv_heads, size.head_dim, 3 * width)
    yield from _linear("tokenizer.audio_acoustic_proj", width, 64)
    yield from _linear(f"{pooler}.embed_tokens", width, width)
    yield from _norm(f"{pooler}.norm", width)
    yield f"{pooler}.special_token", Fill((1, 1, width), 1.0)
    yield from _encoder_layers(f"{pooler}.", *sizes)
    yield from _linear("tokenizer.quantizer.project_in", 6, width)
    yield from _linear("tokenizer.quantizer.project_out", width, 6)
    yield from _linear("detokenizer.embed_tokens", width, width)
    yield "detokenizer.special_tokens", Fill((1, 5, width), 1.0)
    yield from _encoder_layers("detokenizer.", *sizes)
    yield from _norm("detokenizer.norm", width)
    yield from _linear("detokenizer.proj_out", 64, width)


def model(size: Geometry) -> Fills:
    """Decoder, condition encoder, audio tokenizer and detokenizer, with the official names."""
    yield from _decoder(size)
    yield from _conditioning(size)
    yield from _audio_tokens(size)


def text_encoder(size: Geometry) -> Fills:
    """Qwen3 with the names of the transformers class, no prefix."""
    yield "embed_tokens.weight", Fill((VOCABULARY, size.text_hidden), 1.0)
    sizes = (size.text_heads, size.text_kv_heads, size.text_head_dim, size.text_mlp)
    yield from _encoder_layers("", size.text_layers, size.text_hidden, *sizes)
    yield from _norm("norm", size.text_hidden)


def _convolution(name: str, outputs: int, inputs: int, kernel: int, gain: float, bias: bool = True) -> Fills:
    """Yield a weight-normalised convolution whose output's rms is `gain` times its input's."""
    yield f"{name}.weight_v", Fill((outputs, inputs, kernel), 1.0)
    yield f"{name}.weight_g", Fill((outputs, 1, 1), 0.0, gain)
    if bias:
        yield f"{name}.bias", Fill((outputs,), 0.02)


def _snake(name: str, width: int) -> Fills:
    yield f"{name}.alpha", Fill((width,), 0.1)
    yield f"{name}.beta", Fill((width,), 0.1)


def _residual_units(name: str, first: int, width: int) -> Fills:
    for index in range(first, first + 3):
        yield from _snake(f"{name}.layers.{index}.layers.0", width)
        yield from _convolution(f"{name}.layers.{index}.layers.1", width, width, 7, 1.0)
        yield from _snake(f"{name}.layers.{index}.layers.2", width)
        yield from _convolution(f"{name}.layers.{index}.layers.3", width, width, 1, 0.3)


def vae(size: Geometry) -> Fills:
    """Oobleck with the names of stable-audio-tools, as in ComfyUI's file."""
    widths = [factor * size.vae_channels for factor in size.vae_widths]
    yield from _convolution("encoder.layers.0", widths[0], 2, 7, 4.0)
    yield from _convolution("decoder.layers.0", widths[-1], 64, 7, 1.0)
    for index, stride in enumerate(STRIDES):
        narrow, wide = widths[index], widths[index + 1]
        down, up = f"encoder.layers.{index + 1}", f"decoder.layers.{len(STRIDES) - index}"
        yield from _residual_units(down, 0, narrow)
        yield from _snake(f"{down}.layers.3", narrow)
        yield from _convolution(f"{down}.layers.4", wide, narrow, 2 * stride, 0.8)
        yield from _snake(f"{up}.layers.0", wide)
        # Transposed: [inputs, outputs, kernel], normalised per input, two taps of every input reach one sample.
        gain = 0.8 * math.sqrt(narrow * stride / wide)
        yield from _convolution(f"{up}.layers.1", wide, narrow, 2 * stride, gain, bias=False)
        yield f"{up}.layers.1.bias", Fill((narrow,), 0.02)
        yield from _residual_units(up, 2, narrow)
    yield from _snake("encoder.layers.6", widths[-1])
    yield from _convolution("encoder.layers.7", 128, widths[-1], 3, 0.7)
    yield from _snake("decoder.layers.6", widths[0])
    yield from _convolution("decoder.layers.7", 2, widths[0], 7, 0.1, bias=False)


BLOCK = 1048583
"""Number of normal numbers drawn; a prime, so that rows of big tensors do not repeat."""


@cache
def _normal_numbers() -> Tensor:
    """Block of normal numbers that every tensor is cut from, twice in a row."""
    return torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)).repeat(2)


def _make(name: str, fill: Fill, seed: int, dtype: torch.dtype) -> Tensor:
    start = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8]) % BLOCK
    count = math.prod(fill.shape)
    piece = (_normal_numbers()[start : start + min(count, BLOCK)] * fill.std + fill.mean).to(dtype)
    if count <= BLOCK:
        return piece.reshape(fill.shape)
    tensor = torch.empty(count, dtype=dtype)
    for offset in range(0, count, BLOCK):
        part = tensor[offset : offset + BLOCK]
        part.copy_(piece[: len(part)])
    return tensor.reshape(fill.shape)


def tensors_of(fills: Fills, *, prefix: str = "", seed: int = 0, dtype: torch.dtype) -> dict[str, Tensor]:
    """Draw named random tensors, a pure function of names, shapes and seed; `prefix` is prepended to every name."""
    return {prefix + name: _make(name, fill, seed, dtype) for name, fill in fills}
