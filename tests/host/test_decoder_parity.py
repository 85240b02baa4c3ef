"""Our decoder computes what ComfyUI's and diffusers' do, forwards and backwards."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from demo.synthetic_model import Geometry, write_tiny_models
from sidestep_core import rng
from sidestep_core.adapters import registry
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.model.decoder import Decoder, load_decoder
from sidestep_core.model.weights import Weights
from tests.tolerance import FP32, PERTURBED, deviation

CPU = torch.device("cpu")
GEOMETRY = Geometry(layers=4, hidden=192, heads=4, kv_heads=2, head_dim=32, mlp=256, encoder_hidden=64)
LENGTHS = (250, 601, 1501)
LORA = LoraConfig(rank=4, alpha=8.0, dropout=0.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    paths = write_tiny_models(tmp_path_factory.mktemp("parity"), GEOMETRY, dtype=torch.float32)
    return Weights.open([paths.model]).under("decoder.")


def all_tensors(weights: Weights) -> dict[str, Tensor]:
    return {name: weights.tensor(name, torch.float32, CPU).clone() for name in weights.names}


def inputs(frames: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, times, condition and context of two songs."""
    random = rng.generator("parity", frames)
    return (torch.randn(2, frames, 64, generator=random), torch.tensor([0.31, 0.87]),
            torch.randn(2, 40, GEOMETRY.encoder_hidden, generator=random),
            torch.randn(2, frames, 128, generator=random))


@pytest.fixture(scope="module")
def ours(weights: Weights) -> Decoder:
    return load_decoder(weights, torch.float32, CPU)


@pytest.fixture(scope="module")
def hosts(comfy: ModuleType, weights: Weights) -> nn.Module:
    import comfy.ops
    from comfy.ldm.ace.ace_step15 import AceStepDiTModel

    g = GEOMETRY
    types = ["sliding_attention" if layer % 2 == 0 else "full_attention" for layer in range(g.layers)]
    model = AceStepDiTModel(192, g.hidden, g.layers, g.heads, g.kv_heads, g.head_dim, g.mlp, 2, 64,
                            condition_dim=g.encoder_hidden, layer_types=types, sliding_window=128,
                            dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    model.load_state_dict(all_tensors(weights))
    return model.requires_grad_(False).eval()


def run_hosts(model: nn.Module, x: Tensor, t: Tensor, condition: Tensor, context: Tensor) -> Tensor:
    return model(x, t, t, None, condition, None, context)


def diffusers_name(name: str) -> str:
    for part in "qkv":
        name = name.replace(f"attn.{part}_proj", f"attn.to_{part}").replace(f"attn.{part}_norm", f"attn.norm_{part}")
    name = name.replace("attn.o_proj", "attn.to_out.0")
    return name.replace("proj_in.1.", "proj_in_conv.").replace("proj_out.1.", "proj_out_conv.")


@pytest.fixture(scope="module")
def diffusers_model(weights: Weights) -> nn.Module:
    from diffusers import AceStepTransformer1DModel

    g = GEOMETRY
    model = AceStepTransformer1DModel(
        hidden_size=g.hidden, intermediate_size=g.mlp, num_hidden_layers=g.layers, num_attention_heads=g.heads,
        num_key_value_heads=g.kv_heads, head_dim=g.head_dim, in_channels=192, audio_acoustic_hidden_dim=64,
        patch_size=2, sliding_window=128, encoder_hidden_size=g.encoder_hidden,
    )
    model.load_state_dict({diffusers_name(name): tensor for name, tensor in all_tensors(weights).items()})
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize("frames", LENGTHS)
def test_forward_equals_comfyui(ours: Decoder, hosts: nn.Module, frames: int) -> None:
    batch = inputs(frames)
    with torch.no_grad():
        found, expected = ours(*batch), run_hosts(hosts, *batch)
    assert deviation(found, expected) <= FP32
    assert deviation(found * (1 + PERTURBED), expected) > FP32


@pytest.mark.parametrize("frames", LENGTHS)
def test_forward_equals_diffusers(ours: Decoder, diffusers_model: nn.Module, frames: int) -> None:
    x, t, condition, context = inputs(frames)
    with torch.no_grad():
        theirs = diffusers_model(hidden_states=x, timestep=t, timestep_r=t, encoder_hidden_states=condition,
                                 context_latents=context, return_dict=False)[0]
        found = ours(x, t, condition, context)
    assert deviation(found, theirs) <= FP32
    assert deviation(found * (1 + PERTURBED), theirs) > FP32


@pytest.mark.parametrize("frames", LENGTHS)
def test_lora_gradients_equal_comfyui(weights: Weights, comfy: ModuleType, frames: int) -> None:
    """The gradient that each adapter gets, with B away from zero so that both factors have one."""
    import comfy.ops
    from comfy.ldm.ace.ace_step15 import AceStepDiTModel

    g = GEOMETRY
    types = ["sliding_attention" if layer % 2 == 0 else "full_attention" for layer in range(g.layers)]
    host = AceStepDiTModel(192, g.hidden, g.layers, g.heads, g.kv_heads, g.head_dim, g.mlp, 2, 64,
                           condition_dim=g.encoder_hidden, layer_types=types, dtype=torch.float32,
                           operations=comfy.ops.disable_weight_init)
    host.load_state_dict(all_tensors(weights))
    batch = inputs(frames)
    target = torch.randn(batch[0].shape, generator=rng.generator("target"))
    gradients = []
    for model, run in ((load_decoder(weights, torch.float32, CPU), Decoder.__call__), (host, run_hosts)):
        parameters = registry.attach(model, LORA, target_modules(LORA, g.layers), seed=1).parameters
        random = rng.generator("factors")
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.05)
        (run(model, *batch) - target).square().mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))
    assert deviation(gradients[0], gradients[1]) <= FP32
    assert deviation(gradients[0] * (1 + PERTURBED), gradients[1]) > FP32
