"""Kinds that this pack does not compute are handed to the host and counted, or refused by name."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import effect
from benchmarks._writers import lycoris, peft
from sidestep_core.io.tensors import read_tensors, write_tensors
from tests.host.pack import pack_module
from tests.tolerance import FP32

Q = "layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def model(comfy: ModuleType) -> Any:
    return effect.host_model("2B")


@pytest.fixture(scope="module")
def base(model: Any) -> dict[str, Tensor]:
    return effect.decoder_weights(model)


def patch(model: Any, path: Path, strength: float = 1.0) -> Any:
    return pack_module("nodes.host.models").patch(model, path, strength)


def refused(message: str) -> Any:
    return pytest.raises(pack_module("sidestep_core.errors").AdapterError, match=message)


@pytest.mark.parametrize("strength", effect.STRENGTHS)
def test_host_kinds_have_their_effect(model: Any, base: dict[str, Tensor], tmp_path: Path, strength: float) -> None:
    made = lycoris(tmp_path, base, "glora")
    patched, matched, total = patch(model, made.path, strength)
    assert matched == total == 16
    assert effect.compare(effect.applied(patched), base, made, strength)[0] <= FP32


def test_missing_bias_is_reported(model: Any, base: dict[str, Tensor], tmp_path: Path) -> None:
    made = lycoris(tmp_path, base, "glora")
    write_tensors(made.path, read_tensors(made.path) | {
        f"lycoris_{Q.replace('.', '_')}.diff_b": torch.ones(len(base[Q]))})
    told: list[str] = []
    _, matched, total = pack_module("nodes.host.models").patch(model, made.path, 1.0, notify=told.append)
    assert matched == total == 16
    assert told == [f"{made.path.name}: 16 of 16 modules matched. 1 not used: {Q}.bias."]


@pytest.mark.parametrize(("kind", "settings", "name"), [
    ("AdaLoraConfig", {"init_r": 4, "total_step": 10, "target_modules": r".*_attn\.[qkvo]_proj"}, "AdaLoRA"),
    ("OFTConfig", {"oft_block_size": 4, "r": 0}, "OFT of PEFT"), ("IA3Config", {"feedforward_modules": []}, "IA3"),
    ("HRAConfig", {}, "HRA"),
])
def test_unsupported_peft_kinds_are_named(model: Any, base: dict[str, Tensor], tmp_path: Path, kind: str,
                                          settings: dict[str, Any], name: str) -> None:
    import peft as package

    from benchmarks._writers import ATTENTION, tree

    config = getattr(package, kind)(**({"target_modules": ATTENTION} | settings))
    package.get_peft_model(tree(base), config).save_pretrained(str(tmp_path))
    with refused(f"of a kind that is not read: {name}"):
        patch(model, tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize(("algo", "settings"), [
    ("lokr", {"factor": 4}), ("lokr", {"factor": 4, "weight_decompose": True}), ("loha", {"weight_decompose": True}),
    ("loha", {"weight_decompose": True, "wd_on_out": False}), ("locon", {"weight_decompose": True}),
])
def test_tucker_convolution_is_applied(model: Any, base: dict[str, Tensor], tmp_path: Path, algo: str,
                                       settings: dict[str, Any]) -> None:
    made = lycoris(tmp_path, base, algo, everything=True, dim=2, use_tucker=True, **settings)
    patched, matched, total = patch(model, made.path)
    assert matched == total
    assert effect.compare(effect.applied(patched), base, made, 1.0)[0] <= FP32


def test_parts_outside_decoder_are_applied(model: Any, tmp_path: Path) -> None:
    """Tensors as written by ComfyUI's own trainer."""
    module = next(key.removesuffix(".weight") for key, tensor in model.model.state_dict().items()
                  if key.startswith("diffusion_model.encoder.") and key.endswith(".weight") and tensor.dim() == 2)
    rows, columns = model.model.state_dict()[f"{module}.weight"].shape
    write_tensors(tmp_path / "a.safetensors", {
        f"{module}.lora_up.weight": torch.ones(rows, 2), f"{module}.lora_down.weight": torch.ones(2, columns),
        f"{module}.alpha": torch.tensor(1.0)})
    patched, matched, total = patch(model, tmp_path / "a.safetensors", 0.5)
    assert (matched, total) == (1, 1)
    assert f"{module}.weight" in patched.patches


@pytest.mark.parametrize("names", ["diffusion_model.decoder.", "lora_unet_decoder_"])
def test_mismatched_settings_are_ignored(model: Any, base: dict[str, Tensor], tmp_path: Path, names: str) -> None:
    made = peft(tmp_path, base, use_rslora=True, r=4, lora_alpha=8)
    module = names + (Q if names.endswith(".") else Q.replace(".", "_"))
    tensors = {f"{module}.lora_down.weight": torch.ones(4, 64), f"{module}.lora_up.weight": torch.ones(64, 4),
               f"{module}.alpha": torch.tensor(8.0)}
    write_tensors(made.path.parent / "b.safetensors", tensors)
    patched, *_ = patch(model, made.path.parent / "b.safetensors")
    found = effect.applied(patched)[Q] - base[Q]
    assert torch.allclose(found, torch.full_like(found, 8.0), atol=1e-4)
