"""Frozen weights in fewer bits and in host memory, against a decoder that holds them as it computes with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from demo.synthetic_model import Geometry, write_tiny_models
from sidestep_core import rng
from sidestep_core.adapters import registry
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.config import BasePrecision
from sidestep_core.errors import ConfigError
from sidestep_core.model import offload
from sidestep_core.model.decoder import Decoder, load_decoder
from sidestep_core.model.frozen import FrozenLinear
from sidestep_core.model.holding import Holding, held_bytes
from sidestep_core.model.loading import hold, load
from sidestep_core.model.packed import QUANTISERS
from sidestep_core.model.weights import Weights
from tests.adapters import KINDS, velocity
from tests.quantised import quantise

CPU = torch.device("cpu")
LAYERS = 4
BOTH = [torch.float32, torch.bfloat16]
SOME = ("lora-ranks", "dora", "lokr", "loha")


@pytest.fixture(scope="module", params=["bf16", "int8", "marked", "plain"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """Checkpoint in a format of files."""
    path = write_tiny_models(tmp_path_factory.mktemp("model"), Geometry(layers=LAYERS)).model
    if request.param != "bf16":
        quantise(path, request.param)
    return Weights.open([path]).under("decoder.")


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    path = write_tiny_models(tmp_path_factory.mktemp("model"), Geometry(layers=LAYERS)).model
    return Weights.open([path]).under("decoder.")


def holding(dtype: torch.dtype, precision: BasePrecision = "as_file", offloaded: int = 0) -> Holding:
    return Holding(precision=precision, offloaded=offloaded, dtype=dtype, device=CPU)


def step(decoder: Decoder, config: AdapterConfig, recomputed: int = 0) -> Iterator[Tensor]:
    """Prediction, and gradients of a changed adapter, with dropout; twice, as a ring is another at the second."""
    live = registry.attach(decoder.train(), config, target_modules(config, LAYERS), 0)
    decoder.recomputed_layers = recomputed
    random = rng.generator("changed")
    with torch.no_grad():
        for parameter in live.parameters:
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.1)
    yield from passes(decoder, live.parameters)


def passes(decoder: Decoder, parameters: tuple[torch.nn.Parameter, ...]) -> Iterator[Tensor]:
    for _ in range(2):
        torch.manual_seed(1)
        out = velocity(decoder)
        yield out.detach()
        yield from torch.autograd.grad(out.float().square().mean(), parameters)


def equal(found: Iterable[Tensor], expected: Iterable[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", SOME)
@pytest.mark.parametrize("dtype", BOTH, ids=["fp32", "bf16"])
def test_held_as_file_is_bit_identical(stored: Weights, dtype: torch.dtype, kind: str) -> None:
    config = KINDS[kind]
    expected = [*step(load_decoder(stored, dtype, CPU), config)]
    assert equal(step(load(stored, holding(dtype)), config), expected)
    assert equal(step(load(stored, holding(dtype, offloaded=LAYERS)), config, recomputed=3), expected)


@pytest.mark.parametrize("offloaded", [1, 2, 3, LAYERS])
def test_offloading_is_bit_identical(bf16: Weights, offloaded: int) -> None:
    config = KINDS["lora"]
    expected = [*step(load_decoder(bf16, torch.bfloat16, CPU), config)]
    for recomputed in (0, 2, LAYERS):
        decoder = load(bf16, holding(torch.bfloat16, offloaded=offloaded))
        assert equal(step(decoder, config, recomputed), expected)


def test_ring_overwrites_its_buffers(bf16: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one of the copies of the way back the gradients are of other weights."""
    config, copies = KINDS["lora"], []
    expected = [*step(load_decoder(bf16, torch.bfloat16, CPU), config)]
    real = offload.LayerRing._copy

    def copy(ring: offload.LayerRing, layer: int, buffer: int) -> None:
        copies.append(layer)
        real(ring, layer, buffer)
        if len(copies) == LAYERS + 1:
            ring._buffers[buffer].zero_()

    monkeypatch.setattr(offload.LayerRing, "_copy", copy)
    found = [*step(load(bf16, holding(torch.bfloat16, offloaded=LAYERS)), config)]
    assert not equal(found, expected)
    # All forward; then, at each turn, all but the two that are there.
    assert copies == [0, 1, 2, 3, 1, 0, 2, 3, 1, 0]


def test_held_weights_can_change_in_place(stored: Weights) -> None:
    """Going to host memory in the middle of a training leaves the adapter and the numbers as they are."""
    config = KINDS["lora"]
    decoder = load(stored, holding(torch.float32))
    live = registry.attach(decoder.train(), config, target_modules(config, LAYERS), 0)
    before = [*passes(decoder, live.parameters)]
    hold(decoder, stored, holding(torch.float32, offloaded=LAYERS))
    assert equal(passes(decoder, live.parameters), before)
    hold(decoder, stored, holding(torch.float32, "int8", LAYERS))
    assert equal(passes(decoder, live.parameters), before) == (stored.stored_dtype(MLP) == "I8")


MLP = "layers.1.mlp.up_proj.weight"


def test_autograd_keeps_no_weight(bf16: Weights) -> None:
    kept: list[torch.Size] = []
    decoder = load(bf16, holding(torch.float32, "int8")).train()
    registry.attach(decoder, KINDS["lora"], target_modules(KINDS["lora"], LAYERS), 0)

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        velocity(decoder)
    assert torch.Size(bf16.shape(MLP)) not in kept
    assert torch.Size(bf16.shape("layers.1.self_attn.q_proj.weight")) not in kept
    assert len(kept) > LAYERS


@pytest.mark.parametrize(("precision", "low", "high"), [("int8", 0.001, 0.01), ("fp8", 0.01, 0.03), ("nf4", 0.05, 0.1)])
def test_quantisers_round_as_known(precision: str, low: float, high: float) -> None:
    weight = torch.randn(96, 128, generator=rng.generator("weight"))
    packed = QUANTISERS[precision](weight)
    for dtype in BOTH:
        found = packed.unpack(dtype)
        assert (found.dtype, found.shape) == (dtype, weight.shape)
        assert low < float((found.float() - weight).norm() / weight.norm()) < high
    assert sum(tensor.numel() * tensor.element_size() for tensor in packed.tensors) <= weight.numel() * 4 / 3.5


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_zero_weights_stay_zero(precision: str) -> None:
    assert QUANTISERS[precision](torch.zeros(4, 64)).unpack(torch.float32).eq(0).all()


@pytest.mark.parametrize(("precision", "low", "high"), [("bf16", 0, 0), ("int8", 1e-4, 0.05), ("fp8", 1e-3, 0.2),
                                                        ("nf4", 0.01, 0.5)])
def test_fewer_bits_change_more(bf16: Weights, precision: BasePrecision, low: float, high: float) -> None:
    plain, held = load_decoder(bf16, torch.float32, CPU), load(bf16, holding(torch.float32, precision))
    assert isinstance(held.get_submodule(MLP.removesuffix(".weight")), FrozenLinear)
    assert low <= float((velocity(held) - velocity(plain)).norm() / velocity(plain).norm()) <= high


def test_offloaded_fewer_bits_equal_resident_ones(bf16: Weights) -> None:
    for precision in ("int8", "fp8", "nf4"):
        resident, offloaded = (load(bf16, holding(torch.float32, precision, count)) for count in (0, LAYERS))
        assert torch.equal(velocity(resident), velocity(offloaded))


@pytest.mark.parametrize("precision", ["as_file", "bf16", "int8", "fp8", "nf4"])
def test_bytes_are_counted_by_the_header(stored: Weights, precision: BasePrecision) -> None:
    where = holding(torch.float32, precision)
    decoder, counted = load(stored, where), held_bytes(stored, where)
    held = {name: module.held.packed() for name, module in decoder.named_modules() if isinstance(module, FrozenLinear)}
    values = sum(one.values.nbytes for one in held.values())
    scales = sum(one.scale.nbytes for one in held.values() if one.scale is not None and one.scale.numel() > 1)
    plain = sum(parameter.nbytes for parameter in decoder.parameters())
    kept_scales = scales if not where.keeps(stored, MLP) else 0
    assert counted.total == values + kept_scales + plain
    assert counted.layer == (values + kept_scales) / LAYERS if len(held) == LAYERS * 11 else len(held) == 0
    assert (counted.unpacked == 4 * 96 * 64) == bool(held)


def test_apple_gpus_have_no_fp8() -> None:
    with pytest.raises(ConfigError, match="Use int8"):
        Holding(precision="fp8", dtype=torch.bfloat16, device=torch.device("mps"))


def test_missing_projection_is_named(bf16: Weights, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no weight"):
        load(bf16.under("layers."), holding(torch.float32, "int8"))
