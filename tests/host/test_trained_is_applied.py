"""The flagship: trained = saved = reloaded = applied by the host, and different from the base."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep_core import adapter as adapter_file
from sidestep_core import flow, lora
from sidestep_core.checkpoint import Checkpoint
from sidestep_core.config import LoraConfig, TrainConfig
from sidestep_core.step import Training, optimizer_step, prepare
from tests.host.pack import pack_module
from tests.tiny import write_dataset
from tests.tolerance import EFFECT, FP32, deviation

CPU = torch.device("cpu")
FRAMES = 60
CONFIG = TrainConfig(max_steps=4, learning_rate=1e-2, warmup_steps=0, gradient_accumulation=2, heldout_songs=0,
                     device="cpu", gradient_checkpointing=False)
LORAS = [LoraConfig(rank=8, alpha=16.0), LoraConfig(rank=4, alpha=4.0, attention="self"),
         LoraConfig(rank=6, alpha=3.0, attention="cross", projections=("q_proj", "v_proj"))]


@pytest.fixture(scope="module")
def host(comfy: ModuleType, checkpoint: Checkpoint) -> Any:
    """The host's MODEL of the same file, in float32 so that nothing is lost to rounding."""
    return comfy.sd.load_diffusion_model(str(checkpoint.model[0]), model_options={"dtype": torch.float32})


@pytest.fixture(scope="module", params=LORAS, ids=lambda config: f"rank{config.rank}-{config.attention}")
def trained(request: pytest.FixtureRequest, checkpoint: Checkpoint,
            tmp_path_factory: pytest.TempPathFactory) -> Training:
    dataset = write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (50, 60), width=2048)
    training = prepare(checkpoint, dataset, request.param, CONFIG, CPU)
    for step in range(CONFIG.max_steps):
        optimizer_step(training, step)
    training.decoder.eval()
    return training


@pytest.fixture(scope="module")
def saved(trained: Training, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "adapter.safetensors"
    adapter_file.write(path, lora.state(trained.decoder), {})
    return path


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = flow.generator("flagship")
    return (torch.randn(1, FRAMES, 64, generator=random), torch.tensor([0.6]),
            torch.randn(1, 20, 2048, generator=random), torch.randn(1, FRAMES, 128, generator=random))


def host_velocity(patcher: Any) -> Tensor:
    x, t, condition, context = batch()
    patcher.patch_model()
    try:
        return patcher.model.diffusion_model.decoder(x, t, t, None, condition, None, context)
    finally:
        patcher.unpatch_model()


@torch.no_grad()
def test_the_host_computes_what_was_trained(host: Any, trained: Training, saved: Path) -> None:
    live = trained.decoder(*batch())
    base = host_velocity(host)
    patched, matched, total = pack_module("nodes.models").patch(host, saved, 1.0)
    assert matched == total == len(list(lora.deltas(trained.decoder)))
    applied = host_velocity(patched)
    assert deviation(applied, live) <= FP32
    assert deviation(base, live) > 100 * FP32
    assert torch.equal(host_velocity(host), base)


def test_the_proof_where_the_host_streams_weights(comfy: ModuleType, trained: Training, saved: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """DynamicVRAM, the default on NVIDIA: a layer of the host has no weight until a file is loaded into it."""
    import comfy.memory_management

    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    # Its own way of reading files needs a GPU; how a model is made does not.
    monkeypatch.setattr(comfy.utils, "load_torch_file", lambda path, **_: adapter_file.storage.read_tensors(Path(path)))
    proof = adapter_file.prove(saved, lora.deltas(trained.decoder), pack_module("nodes.models").load_as_comfyui)
    assert proof.matched == proof.total


@torch.no_grad()
def test_stock_lora_loader_applies_the_same(comfy: ModuleType, host: Any, trained: Training, saved: Path) -> None:
    patched, _ = comfy.sd.load_lora_for_models(host, None, comfy.utils.load_torch_file(str(saved)), 1.0, 0.0)
    live = trained.decoder(*batch())
    assert deviation(host_velocity(patched), live) <= FP32
    assert deviation(host_velocity(host), live) > FP32


@torch.no_grad()
def test_without_alpha_the_host_would_be_wrong(comfy: ModuleType, host: Any, trained: Training, saved: Path) -> None:
    """The twin: why every file has `.alpha`, and why the proof would notice."""
    tensors = comfy.utils.load_torch_file(str(saved))
    bare = {name: tensor for name, tensor in tensors.items() if not name.endswith(".alpha")}
    patched, _ = comfy.sd.load_lora_for_models(host, None, bare, 1.0, 0.0)
    scaling = next(layer.scaling["default"] for _, layer in lora._adapted(trained.decoder))
    assert (deviation(host_velocity(patched), trained.decoder(*batch())) > FP32) == (scaling != 1)


def test_reloading_gives_the_trained_decoder(checkpoint: Checkpoint, trained: Training, saved: Path,
                                             tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (50, 60), width=2048)
    rank = next(layer.r["default"] for _, layer in lora._adapted(trained.decoder))
    config = next(config for config in LORAS if config.rank == rank)
    fresh = prepare(checkpoint, dataset, config, CONFIG, CPU)
    lora.load_state(fresh.decoder, adapter_file.storage.read_tensors(saved))
    fresh.decoder.eval()
    with torch.no_grad():
        assert torch.equal(fresh.decoder(*batch()), trained.decoder(*batch()))


def test_the_proof_by_the_hosts_loader(comfy: ModuleType, trained: Training, saved: Path) -> None:
    proof = adapter_file.prove(saved, lora.deltas(trained.decoder), pack_module("nodes.models").load_as_comfyui)
    assert proof.matched == proof.total
    assert proof.effect == pytest.approx(1, abs=EFFECT)
    assert proof.error <= FP32


@pytest.mark.parametrize("change", ["another model's names", "another model's widths"])
def test_what_does_not_fit_is_an_error(host: Any, trained: Training, tmp_path: Path, change: str) -> None:
    """The host would go on in silence, as if the adapter did nothing."""
    tensors = lora.state(trained.decoder)
    if change == "another model's names":
        tensors = {name.replace("layers.", "blocks."): tensor for name, tensor in tensors.items()}
    else:
        tensors = {name: tensor.repeat(1, 2) if "lora_A" in name else tensor for name, tensor in tensors.items()}
    adapter_file.write(tmp_path / "other.safetensors", tensors, {})
    with pytest.raises(pack_module("sidestep_core.errors").AdapterError, match=r"0 of \d+ modules matched"):
        pack_module("nodes.models").patch(host, tmp_path / "other.safetensors", 1.0)
