"""Decoder: sized by its weights, exact at every length, with float32 times."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from demo.synthetic_model import XL_LIKE, Geometry, write_tiny_models
from sidestep_core import rng
from sidestep_core.errors import CheckpointError
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model import flow_matching
from sidestep_core.model.attention import WINDOW
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.decoder import Decoder, DecoderGeometry, TimeEmbedding, load_decoder
from sidestep_core.model.weights import Weights
from tests.tolerance import BF16, FP32, PERTURBED, deviation

CPU = torch.device("cpu")


def weights_of(folder: Path, geometry: Geometry) -> Weights:
    paths = write_tiny_models(folder, geometry, dtype=torch.float32)
    return Weights.open([paths.model]).under("decoder.")


@pytest.fixture(scope="module")
def weights(checkpoint: Checkpoint) -> Weights:
    return checkpoint.model_weights().under("decoder.")


@pytest.fixture(scope="module")
def decoder(weights: Weights) -> Decoder:
    """Decoder that tests must not change."""
    return load_decoder(weights, torch.float32, CPU)


def inputs(frames: int, *, batch: int = 2, tokens: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw noisy latents, times, condition and context."""
    random = rng.generator("decoder", frames)
    x_BTC, source_BTC = (torch.randn(batch, frames, 64, generator=random) for _ in range(2))
    condition_BSD = torch.randn(batch, tokens, 64, generator=random)
    return x_BTC, torch.rand(batch, generator=random), condition_BSD, flow_matching.context_latents(source_BTC)


@pytest.mark.parametrize("geometry", [Geometry(), XL_LIKE, Geometry(layers=1, heads=2, kv_heads=1, mlp=32)])
def test_sizes_come_from_weights(tmp_path: Path, geometry: Geometry) -> None:
    weights = weights_of(tmp_path, geometry)
    assert DecoderGeometry.from_weights(weights) == DecoderGeometry(
        width=geometry.hidden, layers=geometry.layers, heads=geometry.heads, kv_heads=geometry.kv_heads,
        head_width=geometry.head_dim, mlp=geometry.mlp, condition_width=geometry.encoder_hidden, in_channels=192,
        out_channels=64, patch=2,
    )
    decoder = load_decoder(weights, torch.float32, CPU)
    assert decoder.state_dict().keys() == weights.names
    velocity = decoder(*inputs(10))
    assert velocity.shape == (2, 10, 64)
    assert torch.isfinite(velocity).all()


def test_loaded_decoder_is_frozen(decoder: Decoder) -> None:
    assert not any(parameter.requires_grad for parameter in decoder.parameters())
    assert not decoder.training


@pytest.mark.parametrize("name", [
    "proj_in.1.weight", "layers.0.self_attn.q_norm.weight", "layers.0.self_attn.k_proj.weight",
    "layers.0.mlp.gate_proj.weight", "condition_embedder.weight", "proj_out.1.weight", "proj_out.1.bias",
    "layers.1.cross_attn.o_proj.weight", "layers.1.scale_shift_table", "time_embed_r.time_proj.bias",
])  # fmt: skip
def test_wrong_weights_are_named(checkpoint: Checkpoint, tmp_path: Path, name: str) -> None:
    tensors = read_tensors(checkpoint.model[0])
    tensor = tensors.pop(f"decoder.{name}")
    write_tensors(tmp_path / "lacking.safetensors", tensors)
    with pytest.raises(CheckpointError, match=rf"lacking\.safetensors has no weight '{name}'"):
        load_decoder(Weights.open([tmp_path / "lacking.safetensors"]).under("decoder."), torch.float32, CPU)
    longer = torch.cat((tensor, tensor[:1]))
    write_tensors(tmp_path / "longer.safetensors", {**tensors, f"decoder.{name}": longer})
    with pytest.raises(CheckpointError, match=r"longer\.safetensors has shape .* but its other weights need"):
        load_decoder(Weights.open([tmp_path / "longer.safetensors"]).under("decoder."), torch.float32, CPU)


@pytest.mark.parametrize("frames", [1, 51, 801])
def test_odd_lengths_are_padded(decoder: Decoder, frames: int) -> None:
    x_BTC, t_B, condition_BSD, context_BTC = inputs(frames, batch=1)
    found = decoder(x_BTC, t_B, condition_BSD, context_BTC)
    one_more = (torch.cat((x, torch.zeros_like(x[:, :1])), dim=1) for x in (x_BTC, context_BTC))
    padded_x, padded_context = one_more
    assert found.shape == (1, frames, 64)
    assert torch.equal(found, decoder(padded_x, t_B, condition_BSD, padded_context)[:, :frames])


@pytest.mark.parametrize("frames", [40, 800])
def test_batch_items_are_independent(decoder: Decoder, frames: int) -> None:
    together = decoder(*inputs(frames))
    for index in range(2):
        alone = decoder(*(part[index:index + 1] for part in inputs(frames)))
        assert deviation(alone, together[index:index + 1]) < FP32
        assert deviation(alone, together[1 - index:2 - index]) > PERTURBED


def changed_frames(decoder: Decoder, frames: int, frame: int) -> Tensor:
    """Return the frames of the velocity that change with one frame of the noisy latents."""
    x_BTC, *rest = inputs(frames, batch=1)
    other = x_BTC.clone()
    other[:, frame] += 1
    return (decoder(x_BTC, *rest) != decoder(other, *rest)).any(-1)[0]


def test_even_layers_are_windowed(tmp_path: Path, decoder: Decoder) -> None:
    one_layer = load_decoder(weights_of(tmp_path, Geometry(layers=1)), torch.float32, CPU)
    position = torch.arange(900) // 2
    assert torch.equal(changed_frames(one_layer, 900, 400), (position - 200).abs() <= WINDOW)
    assert changed_frames(decoder, 900, 400).all()


def test_condition_tokens_have_no_order(decoder: Decoder) -> None:
    """Cross-attention adds no positions."""
    x_BTC, t_B, condition_BSD, context_BTC = inputs(20)
    found = decoder(x_BTC, t_B, condition_BSD, context_BTC)
    assert deviation(decoder(x_BTC, t_B, condition_BSD.flip(1), context_BTC), found) < FP32
    assert deviation(decoder(x_BTC, t_B, condition_BSD[:, 1:], context_BTC), found) > PERTURBED


@pytest.mark.parametrize("part", range(4), ids=["latents", "time", "condition", "context"])
def test_every_input_matters(decoder: Decoder, part: int) -> None:
    given = list(inputs(20))
    before = decoder(*given)
    given[part] = given[part] + 0.01
    assert deviation(decoder(*given), before) > PERTURBED


def test_times_stay_float32() -> None:
    torch.manual_seed(0)
    exact = TimeEmbedding(64)
    rounded = TimeEmbedding(64)
    rounded.load_state_dict(exact.state_dict())
    rounded.bfloat16()
    t_B = torch.tensor([0.1234, 0.5432, 0.9876])
    assert deviation(rounded(t_B)[1], exact(t_B)[1]) < BF16
    assert deviation(rounded(t_B.bfloat16())[1], exact(t_B)[1]) > 2 * BF16


def test_bfloat16_decoder_distinguishes_times(weights: Weights) -> None:
    decoder = load_decoder(weights, torch.bfloat16, CPU)
    x_BTC, _, condition_BSD, context_BTC = (part.bfloat16() for part in inputs(20, batch=1))
    close = [torch.tensor([time]) for time in (0.8000, 0.8008)]
    assert torch.equal(close[0].bfloat16(), close[1].bfloat16())
    first, second = (decoder(x_BTC, t_B, condition_BSD, context_BTC) for t_B in close)
    assert first.dtype == torch.bfloat16
    assert not torch.equal(first, second)


def gradients(weights: Weights, *, recomputed: int, frames: int) -> tuple[Tensor, Tensor]:
    decoder = load_decoder(weights, torch.float32, CPU).requires_grad_().train()
    decoder.recomputed_layers = recomputed
    velocity = decoder(*inputs(frames))
    velocity.square().mean().backward()
    return velocity.detach(), torch.cat([parameter.grad.flatten() for parameter in decoder.parameters()])


@pytest.mark.parametrize("frames", [21, 800])
@pytest.mark.parametrize("layers", [1, 2])
def test_recomputation_is_bit_identical(weights: Weights, frames: int, layers: int) -> None:
    kept = gradients(weights, recomputed=0, frames=frames)
    recomputed = gradients(weights, recomputed=layers, frames=frames)
    assert kept[1].count_nonzero() > 0.9 * kept[1].numel()
    assert torch.equal(kept[0], recomputed[0])
    assert torch.equal(kept[1], recomputed[1])


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_requested_layers_are_recomputed(weights: Weights, layers: int) -> None:
    decoder = load_decoder(weights, torch.float32, CPU).requires_grad_().train()
    decoder.recomputed_layers = layers
    forwards = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda *_: forwards.append(1))
    decoder(*inputs(21)).square().mean().backward()
    assert len(forwards) == len(decoder.layers) + layers
