"""Layers: norm, rotary embedding, windows, and the loading of their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidestep_core import rng
from sidestep_core.errors import CheckpointError
from sidestep_core.io.tensors import write_tensors
from sidestep_core.model.attention import WINDOW, sliding_window
from sidestep_core.model.layers import (
    EPS,
    MLP,
    AttentionShape,
    EncoderLayer,
    RMSNorm,
    RotaryEmbedding,
    load_frozen,
    residual,
)
from sidestep_core.model.weights import Weights
from tests.attention import HEAD_WIDTH, HEADS, KV_HEADS, queries_keys_values
from tests.tolerance import FP32, PERTURBED, deviation

CPU = torch.device("cpu")


def random_layer() -> EncoderLayer:
    layer = EncoderLayer(AttentionShape(width=32, heads=HEADS, kv_heads=KV_HEADS, head_width=HEAD_WIDTH), 48)
    random = rng.generator("layer")
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random) * parameter.shape[-1] ** -0.5
    return layer.requires_grad_(False)


@pytest.mark.parametrize("length", [300, 400])
@pytest.mark.parametrize("token", [0, 1, 128, 150, 255, 256, 299])
def test_window_reaches_128_positions(length: int, token: int) -> None:
    layer = random_layer()
    x_BLD = torch.randn(1, length, 32, generator=rng.generator("tokens"))
    other = x_BLD.clone()
    other[:, token] += 1
    rotation, mask = RotaryEmbedding.of(length, HEAD_WIDTH, x_BLD), sliding_window(length, x_BLD)
    changed = (layer(x_BLD, rotation, mask) != layer(other, rotation, mask)).any(-1)[0]
    position = torch.arange(length)
    assert torch.equal(changed, (position - token).abs() <= WINDOW)


def test_rotary_attention_is_relative() -> None:
    query, key, _ = queries_keys_values(40)
    rotation = RotaryEmbedding.of(40, HEAD_WIDTH, query)
    scores = torch.einsum("blhe,bmhe->lmbh", rotation.apply(query[:, :1].expand(-1, 40, -1, -1)),
                          rotation.apply(key[:, :1].repeat(1, 40, HEADS // KV_HEADS, 1)))
    for distance in (0, 3, 17):
        along = scores.diagonal(distance)
        assert deviation(along, along[..., :1].expand_as(along)) < FP32
    assert deviation(scores.diagonal(3)[..., 0], scores.diagonal(4)[..., 0]) > PERTURBED


def test_rotation_keeps_norms() -> None:
    query, _, _ = queries_keys_values(40)
    rotated = RotaryEmbedding.of(40, HEAD_WIDTH, query).apply(query)
    assert torch.equal(rotated[:, 0], query[:, 0])
    assert deviation(rotated.norm(dim=-1), query.norm(dim=-1)) < FP32


def test_angles_are_rounded_once() -> None:
    """bfloat16 cannot represent every position above 256, so angles computed in it would be wrong."""
    exact = RotaryEmbedding.of(1000, HEAD_WIDTH, torch.zeros(1))
    rounded = RotaryEmbedding.of(1000, HEAD_WIDTH, torch.zeros(1).bfloat16())
    assert torch.equal(rounded.cos, exact.cos.bfloat16())
    assert torch.equal(rounded.sin, exact.sin.bfloat16())


def test_rms_norm_matches_definition() -> None:
    norm, x = RMSNorm(8), torch.randn(3, 8, generator=rng.generator("norm"))
    norm.weight.data = torch.arange(8.0)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * torch.arange(8.0)
    assert deviation(norm(x).detach(), expected) < FP32
    assert deviation(norm(x).detach(), expected * (1 + PERTURBED)) > FP32


def test_fast_norm_matches_plain_autograd() -> None:
    norm, x = RMSNorm(8).requires_grad_(False), torch.randn(2, 3, 8, generator=rng.generator("norm")).requires_grad_()
    norm.weight.data = torch.arange(8.0)
    shift, scale, upstream = (torch.randn(2, 3, 8, generator=rng.generator("modulation", n)) for n in range(3))
    plain = torch.addcmul(shift, torch.nn.functional.rms_norm(x, (8,), norm.weight, EPS), 1 + scale)
    ours = norm.modulated(x, shift, scale)
    assert deviation(ours, plain) < FP32
    found, expected, other = (torch.autograd.grad((out * upstream).sum(), x)[0]
                              for out in (ours, plain, norm.modulated(x, shift, scale + PERTURBED)))
    assert deviation(found, expected) < FP32
    assert deviation(other, expected) > FP32


@pytest.mark.parametrize("gated", [False, True])
def test_residual_block_matches_plain_autograd(gated: bool) -> None:
    """The norm that hands on its input, and the sum that is written over a layer's output."""
    norm = RMSNorm(8).requires_grad_(False)
    random = rng.generator("residual")
    norm.weight.copy_(torch.randn(8, generator=random))
    shift, scale, gate = (torch.randn(1, 1, 8, generator=random) if gated else None for _ in range(3))
    x, weight = torch.randn(2, 3, 8, generator=random).requires_grad_(), torch.randn(8, 8, generator=random)
    upstream = torch.randn(2, 3, 8, generator=random)

    def ours() -> Tensor:
        direct, normed = norm.forked(x, shift, scale)
        return residual(direct, F.linear(normed, weight), gate)

    def plain(share: float = 1.0) -> Tensor:
        normed = F.rms_norm(x, (8,), norm.weight, EPS)
        normed = normed if shift is None or scale is None else shift + normed * (1 + scale)
        return share * x + F.linear(normed, weight) * (1 if gate is None else gate)

    assert deviation(ours(), plain()) <= FP32
    found, expected, other = (torch.autograd.grad(out, x, upstream)[0] for out in (ours(), plain(), plain(0.9)))
    assert deviation(found, expected) <= FP32
    assert deviation(found, other) > PERTURBED


def test_norm_without_other_use_has_its_gradient() -> None:
    norm, x = RMSNorm(8).requires_grad_(False), torch.randn(2, 3, 8, generator=rng.generator("norm")).requires_grad_()
    direct, normed = norm.forked(x)
    assert torch.equal(torch.autograd.grad(normed.square().sum(), x)[0], torch.autograd.grad(
        norm(x).square().sum(), x)[0])
    assert torch.equal(torch.autograd.grad(direct.sum(), x)[0], torch.ones_like(x))


def test_rotation_gradient_is_rotated_back() -> None:
    query, upstream, _ = queries_keys_values(40)
    rotation = RotaryEmbedding.of(40, HEAD_WIDTH, query)
    query.requires_grad_()
    first, second = query.chunk(2, dim=-1)
    cos, sin = torch.cat((rotation.cos,) * 2, -1)[:, None], torch.cat((rotation.sin,) * 2, -1)[:, None]
    plain, ours = query * cos + torch.cat((-second, first), dim=-1) * sin, rotation.apply(query)
    assert deviation(ours, plain) < FP32
    upstream = torch.cat((upstream, upstream), dim=2)
    found, expected = (torch.autograd.grad((out * upstream).sum(), query)[0] for out in (ours, plain))
    assert deviation(found, expected) < FP32
    assert deviation(found, upstream) > PERTURBED


def empty_mlp() -> nn.Module:
    with torch.device("meta"):
        return MLP(4, 6)


def mlp_weights(folder: Path, **changed: Tensor | None) -> Weights:
    shapes = {"gate_proj": (6, 4), "up_proj": (6, 4), "down_proj": (4, 6)}
    tensors = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    for name, tensor in changed.items():
        tensors.pop(f"{name}.weight")
        if tensor is not None:
            tensors[f"{name}.weight"] = tensor
    write_tensors(folder / "mlp.safetensors", tensors)
    return Weights.open([folder / "mlp.safetensors"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loaded_weights_are_frozen(tmp_path: Path, dtype: torch.dtype) -> None:
    module, weights = empty_mlp(), mlp_weights(tmp_path)
    load_frozen(module, weights, dtype, CPU)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, weights.tensor(name, dtype, CPU))
        assert parameter.dtype == dtype
        assert not parameter.requires_grad


def test_missing_weight_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"mlp\.safetensors has no weight 'up_proj\.weight'"):
        load_frozen(empty_mlp(), mlp_weights(tmp_path, up_proj=None), torch.float32, CPU)


@pytest.mark.parametrize("shape", [(4, 6), (6, 5), (24,)])
def test_wrong_shape_is_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError) as refused:
        load_frozen(empty_mlp(), mlp_weights(tmp_path, up_proj=torch.zeros(shape)), torch.float32, CPU)
    for part in ("up_proj.weight", "mlp.safetensors", str(shape), "(6, 4)"):
        assert part in str(refused.value)
