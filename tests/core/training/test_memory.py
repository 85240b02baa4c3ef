"""The plan of device memory, against what autograd really keeps, and what follows from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.memory import PLAN_ERROR_TARGET, batch_of, held, kept_and_planned, weights_error
from demo.synthetic_model import Geometry, write_tiny_models
from sidestep_core.adapters import registry
from sidestep_core.adapters.config import PROJECTIONS, AdapterConfig
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.model.decoder import Decoder, DecoderGeometry, load_decoder
from sidestep_core.model.holding import Holding
from sidestep_core.model.weights import Weights
from sidestep_core.training import memory
from sidestep_core.training.data import Sample
from sidestep_core.training.memory import GIB, Batch, Need, fit, largest_batch, layer_bytes, plan
from sidestep_core.training.planning.batch_sizes import BatchSize
from tests.tolerance import MEMORY
from tests.training import settled

CPU = torch.device("cpu")
GEOMETRY = Geometry(layers=4, hidden=128, heads=4, kv_heads=2, head_dim=32, mlp=384, encoder_hidden=64, lyric_layers=1,
                    timbre_layers=1, pooler_layers=1, text_layers=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    paths = write_tiny_models(tmp_path_factory.mktemp("model"), GEOMETRY, dtype=torch.float32)
    return Weights.open([paths.model]).under("decoder.")


def adapted(weights: Weights, config: AdapterConfig, dtype: torch.dtype) -> Decoder:
    decoder = load_decoder(weights, dtype, CPU).train()
    registry.attach(decoder, config, target_modules(config, GEOMETRY.layers), 0)
    return decoder


def kept_bytes(decoder: Decoder, batch: Batch, dtype: torch.dtype) -> int:
    """Bytes that autograd keeps of a forward pass, each storage once, without parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    x_BTC = torch.randn(batch.samples, batch.frames, 64, dtype=dtype)
    condition_BSD = torch.randn(batch.samples, batch.tokens, GEOMETRY.encoder_hidden, dtype=dtype)
    context_BTC = torch.randn(batch.samples, batch.frames, 128, dtype=dtype)
    # Held until the end, so that no other tensor comes to lie at the same address.
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast(
            "cpu", dtype=dtype, enabled=dtype != torch.float32):
        velocity_BTC = decoder(x_BTC, torch.rand(batch.samples), condition_BSD, context_BTC)
    assert velocity_BTC.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def on_cpu(samples: int, frames: int, dtype: torch.dtype, *, dropout: bool = True) -> Batch:
    return Batch(samples=samples, frames=frames, tokens=90, bytes=dtype.itemsize, dropout=dropout, gpu=False)


@pytest.mark.parametrize(("frames", "samples"), [(200, 2), (1600, 1)], ids=["dense", "blocks"])
@pytest.mark.parametrize("modules", [PROJECTIONS, ("q_proj",)], ids=["all", "q"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_layer_bytes_match_autograd(weights: Weights, frames: int, samples: int, modules: tuple[str, ...],
                                    dtype: torch.dtype, dropout: float) -> None:
    config = LoraConfig(rank=4, dropout=dropout, target_modules=modules)
    decoder = adapted(weights, config, dtype)
    batch = on_cpu(samples, frames, dtype, dropout=dropout > 0)
    told = layer_bytes(decoder.geometry, target_modules(config, GEOMETRY.layers), batch)
    found = kept_bytes(decoder, batch, dtype) / GEOMETRY.layers
    assert 1 / MEMORY < told / found < MEMORY


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("config", [LoraConfig(rank=4, dora=True), LokrConfig(linear_dim=4), LohaConfig(rank=4)],
                         ids=["dora", "lokr", "loha"])
def test_layer_bytes_hold_for_every_kind(weights: Weights, config: AdapterConfig, dtype: torch.dtype) -> None:
    decoder = adapted(weights, config, dtype)
    batch = on_cpu(1, 1600, dtype)
    told = layer_bytes(decoder.geometry, target_modules(config, GEOMETRY.layers), batch)
    found = kept_bytes(decoder, batch, dtype) / GEOMETRY.layers
    assert 1 / MEMORY < told / found < MEMORY


def test_recomputed_layers_keep_their_input(weights: Weights) -> None:
    config = LoraConfig(rank=4)
    decoder = adapted(weights, config, torch.float32)
    batch = on_cpu(1, 1600, torch.float32)
    whole = kept_bytes(decoder, batch, torch.float32)
    decoder.recomputed_layers = 3
    saved = whole - kept_bytes(decoder, batch, torch.float32)
    layer = layer_bytes(decoder.geometry, target_modules(config, GEOMETRY.layers), batch)
    told = 3 * (layer - 800 * GEOMETRY.hidden * 4)
    assert 1 / MEMORY < told / saved < MEMORY
    assert told / (saved / 2) > MEMORY


def samples(*frames: int) -> list[Sample]:
    return [Sample(name=str(count), latents_TC=torch.zeros(count, 64), condition_SD=torch.zeros(30 + count, 64))
            for count in frames]


def test_plan_counts_every_part(weights: Weights) -> None:
    config, lora_config = settled(optimizer="prodigy", ema_decay=0.9), LoraConfig(rank=4)
    decoder = load_decoder(weights, torch.bfloat16, CPU)
    frozen = sum(parameter.numel() for parameter in decoder.parameters())
    modules = target_modules(lora_config, GEOMETRY.layers)
    live = registry.attach(decoder, lora_config, modules, 0)
    trained = sum(parameter.numel() for parameter in live.parameters)
    held = Holding(dtype=torch.bfloat16, device=CPU)
    need = plan(weights, held, trained, modules, 0.1, samples(100, 60), replace(config, gradient_checkpointing="on"))
    assert need.weights == 2 * frozen
    assert need.adapter == 4 * trained
    assert need.trained == (4 + 16 + 4) * trained
    assert need.layer_input == 50 * GEOMETRY.hidden * 2
    assert need.total == need.weights + need.adapter + need.trained + need.activations
    assert (need.recomputed, need.layers) == (4, 4)
    assert plan(weights, held, trained, modules, 0.1, samples(100), replace(config, gradient_checkpointing="off")
                ).recomputed == 0
    fewer = replace(held, precision="int8")
    eight = plan(weights, fewer, trained, modules, 0.1, samples(100, 60), replace(config, offload="on"))
    assert eight.offloaded == 4
    assert eight.weights < need.weights
    assert eight.resident == eight.weights - 2 * eight.layer_weights
    assert eight.unpacked == 384 * 128 * 2


def test_largest_batch_keeps_most(weights: Weights) -> None:
    """Two samples of 90 frames, not three of 20 or one of 100."""
    modules, geometry = target_modules(LoraConfig(rank=4), GEOMETRY.layers), DecoderGeometry.from_weights(weights)
    sizes = [BatchSize(samples=count, frames=frames, tokens=30) for count, frames in ((3, 20), (2, 90), (1, 100))]
    where = {"dropout": True, "gpu": True}
    assert largest_batch(geometry, modules, sizes, number_bytes=2, **where) == Batch(
        samples=2, frames=90, tokens=30, bytes=2, **where)


def test_plan_takes_the_longest_batch(weights: Weights) -> None:
    """Measured songs are never in a batch, and songs of different lengths share none."""
    config = settled(batch_size=3, gradient_accumulation=1, gradient_checkpointing="on")
    modules = target_modules(LoraConfig(rank=4), 4)
    held = Holding(dtype=torch.bfloat16, device=CPU)

    def planned(trained: list[Sample], measured: list[Sample]) -> int:
        return plan(weights, held, 1000, modules, 0.1, trained, config, measured=measured).layer_input

    row = GEOMETRY.hidden * 2
    assert planned(samples(100, 60, 60, 60, 60, 60), []) == 3 * 30 * row
    assert planned(samples(100, 60), []) == 2 * 50 * row
    assert planned(samples(60, 60, 60), samples(150)) == 3 * 30 * row
    assert planned(samples(60, 60, 60), samples(400)) == 200 * row


NEED = Need(weights=5 * GIB, adapter=GIB, trained=2 * GIB, layer=GIB, layer_input=GIB // 8, layers=24, recomputed=24)


@pytest.mark.parametrize(("free", "recomputed"), [(100, 0), (32, 0), (31, 2), (20, 13), (8.3, 24), (1, 24)])
def test_fit_recomputes_the_fewest_layers(free: float, recomputed: int) -> None:
    found = fit(NEED, int(free * GIB))
    assert found.recomputed == recomputed
    wanted = found.trained + found.activations
    assert wanted <= memory.USABLE * free * GIB or recomputed == 24
    if 0 < recomputed < 24:
        fewer = replace(found, recomputed=recomputed - 1)
        assert fewer.trained + fewer.activations > memory.USABLE * free * GIB


def test_need_reads_as_text() -> None:
    assert str(NEED) == ("about 13.0 GiB (decoder 5.0, adapter and optimizer 3.0, activations 5.0, recomputing 24 of "
                         "24 layers)")


@pytest.mark.parametrize(("free", "recomputed"), [(None, GEOMETRY.layers), (1 << 40, 0), (1, GEOMETRY.layers)])
def test_auto_follows_free_memory(weights: Weights, monkeypatch: pytest.MonkeyPatch, free: int | None,
                                  recomputed: int) -> None:
    """Where nothing tells what is free, every layer is recomputed."""
    monkeypatch.setattr(memory, "free_memory", lambda _: free)
    modules = target_modules(LoraConfig(rank=4), GEOMETRY.layers)
    held = Holding(dtype=torch.float32, device=CPU)
    assert plan(weights, held, 1000, modules, 0.1, samples(100), settled()).recomputed == recomputed


@pytest.mark.parametrize(("free", "offloaded"), [(8.3, 0), (8.2, 3), (7.7, 5), (5, 20), (4, 24), (-9, 24)])
def test_fit_offloads_the_fewest_layers(free: float, offloaded: int) -> None:
    """Only once every layer is recomputed; two buffers stay on the device."""
    need = replace(NEED, layer_weights=GIB // 8 + GIB // 16)
    found = fit(need, int(free * GIB), offloadable=24)
    assert (found.recomputed, found.offloaded) == (24, offloaded)
    assert fit(need, int(free * GIB)).offloaded == 0
    assert fit(need, int(free * GIB), offloadable=4).offloaded == min(4, offloaded)


def test_gpu_plan_matches_count() -> None:
    """Count by torch's dispatch of CUDA, on a machine without one; benchmarks/memory.py counts many more."""
    size = registry.SIZES["2B"]
    for config in (LoraConfig(), LoraConfig(dora=True), LokrConfig(), LohaConfig()):
        kept, planned = kept_and_planned(size, config, batch_of(60, config))
        assert abs(planned / kept - 1) <= PLAN_ERROR_TARGET
    assert weights_error(size) <= PLAN_ERROR_TARGET
    longer = kept_and_planned(size, LoraConfig(), batch_of(66, LoraConfig()))[1]
    assert abs(longer / kept - 1) > PLAN_ERROR_TARGET
    assert held(size, "nf4").total < (1 - PLAN_ERROR_TARGET) * held(size, "int8").total
