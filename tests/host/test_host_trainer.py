"""Files of ComfyUI's own trainer, which also changes what is outside the decoder: applied and merged whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import effect
from benchmarks._writers import randomise
from sidestep_core.adapters.merge import merge
from sidestep_core.io.tensors import write_tensors
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from tests.host.pack import pack_module
from tests.tolerance import FP32, deviation

ALGORITHMS = ("LoRA", "LoHa", "LoKr", "OFT")


@dataclass(frozen=True)
class Trained:
    """A file, and the model's weights with it, by the trainer's own layers."""

    path: Path
    weights: dict[str, Tensor]


@pytest.fixture(scope="module")
def host(comfy: ModuleType) -> Any:
    """The whole model in small, every weight random."""
    model = effect.host_model("2B")
    random = torch.Generator().manual_seed(0)
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
        parameter.data = torch.randn(parameter.shape, generator=random) * 0.1
    return model


@pytest.fixture(scope="module")
def small(host: Any, checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The model as a checkpoint."""
    path = tmp_path_factory.mktemp("small") / "small_turbo.safetensors"
    write_tensors(path, dict(host.model.diffusion_model.state_dict()))
    return open_checkpoint(path, text_encoder=checkpoint.text_encoder[0], vae=checkpoint.vae)


@pytest.fixture(scope="module", params=ALGORITHMS)
def trained(request: pytest.FixtureRequest, host: Any, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Every layer of the model, as the trainer's node makes it."""
    from comfy_extras import nodes_train

    tensors: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    layers = torch.nn.ModuleList()
    for name, module in host.model.named_modules():
        if getattr(module, "weight", None) is None:
            continue
        made = {"weight": nodes_train._create_weight_adapter(module, name, {}, request.param, torch.float32, 4)}
        if getattr(module, "bias", None) is not None:
            made["bias"] = nodes_train._create_bias_adapter(module, name, torch.float32)
        for kind, (layer, parameters) in made.items():
            layers.append(layer)
            if hasattr(layer, "constraint"):
                layer.alpha.requires_grad_(False)  # Of a rotation it is a bound, and nothing trains it.
            randomise(layer)
            tensors |= {key: parameter.detach().clone() for key, parameter in parameters.items()}
            with torch.no_grad():
                weights[f"{name}.{kind}"] = layer(getattr(module, kind).detach().float().clone())
    path = tmp_path_factory.mktemp("trained") / "ComfyUI_trained.safetensors"
    write_tensors(path, tensors)
    return Trained(path, weights)


def test_host_adapter_is_fully_applied(host: Any, trained: Trained) -> None:
    assert any(name.startswith("diffusion_model.encoder.") for name in trained.weights)
    told: list[str] = []
    patched, matched, total = pack_module("nodes.host.models").patch(host, trained.path, 1.0, notify=told.append)
    assert told == []
    assert matched == total
    import comfy.lora

    base = host.model.state_dict()
    assert patched.patches.keys() == trained.weights.keys()
    for key, expected in trained.weights.items():
        found = comfy.lora.calculate_weight(patched.patches[key], base[key].float().clone(), key)
        assert deviation(found, expected) <= FP32, key
        assert not found.equal(base[key].float())


def test_host_adapter_is_fully_merged(comfy: ModuleType, small: Checkpoint, trained: Trained, tmp_path: Path) -> None:
    before = small.model_weights()
    shapes = {name: before.shape(name) for name in before.names}
    patch, told = pack_module("nodes.host.patches").combine([(trained.path, 1.0)], 0.0, shapes)
    assert told == []
    assert {f"diffusion_model.{name}" for name in patch.parameters} == trained.weights.keys()
    found = merge(small, patch, tmp_path / "new_turbo.safetensors", {})
    after = open_checkpoint(found, text_encoder=small.text_encoder[0], vae=small.vae).model_weights()
    for name in before.names:
        weight = after.tensor(name, torch.float32, torch.device("cpu"))
        expected = trained.weights.get(f"diffusion_model.{name}")
        if expected is None:
            assert weight.equal(before.tensor(name, torch.float32, torch.device("cpu")))
        else:
            assert deviation(weight, expected) <= FP32, name
