"""The flagship: trained = saved = reloaded = applied by the host, and different from the base, for every kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sidestep_core import rng
from sidestep_core.adapters import file as adapter_file
from sidestep_core.adapters.algorithm import LiveAdapter
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.proof import prove
from sidestep_core.adapters.targets import target_modules
from sidestep_core.io.tensors import read_tensors
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.decoder import Decoder, load_decoder
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.step import optimizer_step
from tests.adapters import KINDS
from tests.host.pack import pack_module
from tests.tiny import write_dataset
from tests.tolerance import EFFECT, FP32, PERTURBED, deviation
from tests.training import prepared

CPU = torch.device("cpu")
FRAMES = 60
CONFIG = TrainConfig(max_steps=3, learning_rate=1e-2, warmup_steps=0, gradient_accumulation=1, heldout_songs=0,
                     device="cpu", gradient_checkpointing="off")
MORE: dict[str, AdapterConfig] = {
    "lora-cross": LoraConfig(rank=6, alpha=3.0, attention_type="cross", target_modules=("q_proj", "v_proj")),
}
STRENGTHS = (1.0, -0.5)
"""As trained, and one that any mistake in sign or scale would show; the effect table has more."""


@dataclass(frozen=True)
class Trained:
    config: AdapterConfig
    decoder: Decoder
    adapter: LiveAdapter
    path: Path


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices of 256 gain nothing from two, and threads that wait for each other lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def host(comfy: ModuleType, checkpoint: Checkpoint) -> Any:
    """The host's MODEL of the same file, in float32 so that nothing is lost to rounding."""
    return comfy.sd.load_diffusion_model(str(checkpoint.model[0]), model_options={"dtype": torch.float32})


@pytest.fixture(scope="module", params=(KINDS | MORE).values(), ids=KINDS | MORE)
def trained(request: pytest.FixtureRequest, checkpoint: Checkpoint,
            tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """An adapter after some real steps, and its file."""
    dataset = write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, (50, 60), width=2048)
    training = prepared(checkpoint, dataset, request.param, CONFIG)
    for step in range(CONFIG.max_steps):
        optimizer_step(training, step)
    path = tmp_path_factory.mktemp("saved") / "adapter.safetensors"
    adapter_file.write(path, training.adapter.state_dict(), {})
    return Trained(request.param, training.objective.decoder.eval(), training.adapter, path)


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = rng.generator("flagship")
    return (torch.randn(1, FRAMES, 64, generator=random), torch.tensor([0.6]),
            torch.randn(1, 20, 2048, generator=random), torch.randn(1, FRAMES, 128, generator=random))


def host_velocity(patcher: Any) -> Tensor:
    x, t, condition, context = batch()
    patcher.patch_model()
    try:
        return patcher.model.diffusion_model.decoder(x, t, t, None, condition, None, context)
    finally:
        patcher.unpatch_model()


@pytest.fixture(scope="module")
def base(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The decoder's own weights."""
    weights = checkpoint.model_weights().under("decoder.")
    return {name: weights.tensor(name, torch.float32, CPU).clone() for name in weights.names}


def merged(checkpoint: Checkpoint, trained: Trained, strength: float) -> Tensor:
    """Prediction of the decoder with the trained change added to its weights."""
    decoder = load_decoder(checkpoint.model_weights().under("decoder."), torch.float32, CPU)
    for change in trained.adapter.deltas():
        weight = decoder.get_submodule(change.module).weight
        weight.data = (weight.double() + strength * change.delta.double()).float()
    velocity: Tensor = decoder(*batch())
    return velocity


@torch.no_grad()
@pytest.mark.parametrize("strength", STRENGTHS)
def test_host_computes_trained_change(host: Any, checkpoint: Checkpoint, trained: Trained, strength: float) -> None:
    unchanged = host_velocity(host)
    patched, matched, total = pack_module("nodes.host.models").patch(host, trained.path, strength)
    assert matched == total == len(target_modules(trained.config, 4))
    applied = host_velocity(patched)
    assert deviation(applied, merged(checkpoint, trained, strength)) <= FP32
    if strength == 1:
        assert deviation(applied, trained.decoder(*batch())) <= FP32
    assert deviation(applied, unchanged) > PERTURBED
    assert torch.equal(host_velocity(host), unchanged)


@torch.no_grad()
@pytest.mark.parametrize("strength", STRENGTHS)
def test_stock_loader_applies_trained_weights(comfy: ModuleType, host: Any, trained: Trained, base: dict[str, Tensor],
                                              strength: float) -> None:
    """Relative to the change, not to the weight: in float64, which the host's arithmetic leaves to its caller."""
    patched, _ = comfy.sd.load_lora_for_models(host, None, comfy.utils.load_torch_file(str(trained.path)), strength,
                                               0.0)
    changes = list(trained.adapter.deltas())
    assert len(patched.patches) == len(changes) == len(target_modules(trained.config, 4))
    for change in changes:
        key = f"diffusion_model.decoder.{change.module}.weight"
        weight = base[f"{change.module}.weight"].double()
        applied = comfy.lora.calculate_weight(patched.patches[key], weight.clone(), key,
                                              intermediate_dtype=torch.float64)
        assert deviation(applied - weight, strength * change.delta) <= FP32
        assert deviation((applied - weight) * (1 + PERTURBED), strength * change.delta) > FP32


def test_host_loader_proves_the_adapter(comfy: ModuleType, trained: Trained) -> None:
    load = pack_module("nodes.host.models").load_as_comfyui
    proof = prove(trained.path, trained.adapter.deltas(), load)
    assert proof.matched == proof.total == len(target_modules(trained.config, 4))
    assert proof.effect == pytest.approx(1, abs=EFFECT)
    assert proof.error <= FP32


def test_proof_works_with_streamed_weights(comfy: ModuleType, trained: Trained,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """DynamicVRAM, the default on NVIDIA: a layer of the host has no weight until a file is loaded into it."""
    import comfy.memory_management

    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    # Its own way of reading files needs a GPU; how a model is made does not.
    monkeypatch.setattr(comfy.utils, "load_torch_file", lambda path, **_: read_tensors(Path(path)))
    load = pack_module("nodes.host.models").load_as_comfyui
    proof = prove(trained.path, trained.adapter.deltas(every=4), load)
    assert proof.matched == proof.total


def test_proof_detects_every_wrong_part(comfy: ModuleType, trained: Trained, tmp_path: Path) -> None:
    """The twin: a hundredth more of any part of the file, but of an alpha that the host does not use."""
    state = trained.adapter.state_dict()
    parts = {name.removesuffix(".weight").rpartition(".")[2] for name in state} - ({"alpha"} if idle(state) else set())
    for part in parts:
        wrong = {name: tensor * 1.01 if f".{part}" in name else tensor for name, tensor in state.items()}
        adapter_file.write(tmp_path / f"{part}.safetensors", wrong, {})
        with pytest.raises(adapter_file.AdapterError, match="not usable"):
            prove(tmp_path / f"{part}.safetensors", trained.adapter.deltas(every=5),
                               pack_module("nodes.host.models").load_as_comfyui)


def idle(state: dict[str, Tensor]) -> bool:
    """True if alpha has no effect: both blocks of a LoKR are full."""
    return any(name.endswith("lokr_w2") for name in state) and not any("lokr_w1_a" in name for name in state)


@torch.no_grad()
def test_missing_alpha_changes_the_effect(comfy: ModuleType, host: Any, trained: Trained) -> None:
    """Why every file has `.alpha`: without it the host takes a scale of one, whatever was trained."""
    tensors = comfy.utils.load_torch_file(str(trained.path))
    bare = {name: tensor for name, tensor in tensors.items() if not name.endswith(".alpha")}
    patched, _ = comfy.sd.load_lora_for_models(host, None, bare, 1.0, 0.0)
    assert (deviation(host_velocity(patched), trained.decoder(*batch())) > FP32) != idle(bare)


def test_reloaded_decoder_equals_trained(checkpoint: Checkpoint, trained: Trained, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, checkpoint, (50, 60), width=2048)
    fresh = prepared(checkpoint, dataset, trained.config, CONFIG)
    fresh.adapter.load_state_dict(read_tensors(trained.path))
    with torch.no_grad():
        assert torch.equal(fresh.objective.decoder.eval()(*batch()), trained.decoder(*batch()))


@pytest.mark.parametrize("change", ["another model's names", "another model's widths"])
def test_unfitting_adapter_is_an_error(host: Any, checkpoint: Checkpoint, tmp_path: Path, change: str) -> None:
    """The host would go on in silence, as if the adapter did nothing."""
    dataset = write_dataset(tmp_path / "dataset", checkpoint, (50,), width=2048)
    training = prepared(checkpoint, dataset, LoraConfig(rank=2), CONFIG)
    optimizer_step(training, 0)
    tensors = training.adapter.state_dict()
    if change == "another model's names":
        tensors = {name.replace("layers.", "blocks."): tensor for name, tensor in tensors.items()}
    else:
        tensors = {name: tensor.repeat(1, 2) if "lora_A" in name else tensor for name, tensor in tensors.items()}
    adapter_file.write(tmp_path / "other.safetensors", tensors, {})
    with pytest.raises(pack_module("sidestep_core.errors").AdapterError, match=r"0 of \d+ modules matched"):
        pack_module("nodes.host.models").patch(host, tmp_path / "other.safetensors", 1.0)
