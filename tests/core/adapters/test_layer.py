"""LoKR, LoHA and DoRA: the same matrices and the same change as LyCORIS's own modules, without what those lose.

See test_kinds.py for what every kind has in common.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sidestep_core import rng
from sidestep_core.adapters import registry
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.dropout import Switch, apply_mask, draw_mask, mask_scale
from sidestep_core.adapters.layer import AdapterLayer, LiveLayers
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.errors import AdapterError
from sidestep_core.model.checkpoint import Checkpoint
from tests.adapters import LYCORIS, fresh
from tests.tolerance import BF16, FP32, PERTURBED, deviation

SEPARATE = {name: config for name, config in LYCORIS.items() if not config.has_scalar}
"""Those that LyCORIS loads as we write them; it has no place for a trained scalar."""


def theirs(config: AdapterConfig, base: nn.Linear, rank: int) -> nn.Module:
    """LyCORIS's own module for the same settings."""
    from lycoris.modules.locon import LoConModule
    from lycoris.modules.loha import LohaModule
    from lycoris.modules.lokr import LokrModule

    shared = {"lora_dim": rank, "wd_on_out": False, "weight_decompose": config.decomposed}
    if isinstance(config, LoraConfig):
        return LoConModule("x", base, alpha=config.alpha if config.rslora else config.alpha * rank / config.rank,
                           rs_lora=config.rslora, **shared)
    if isinstance(config, LokrConfig):
        return LokrModule("x", base, alpha=config.alpha * rank / config.linear_dim, factor=config.factor,
                          decompose_both=config.decompose_both, **shared)
    return LohaModule("x", base, alpha=config.alpha * rank / config.rank, **shared)


def ours(config: AdapterConfig, base: nn.Linear, rank: int, size: float = 0.1) -> AdapterLayer:
    """Our layer, every number of which has moved."""
    decoder = nn.ModuleDict({"x": nn.Linear(base.in_features, base.out_features, bias=False, dtype=base.weight.dtype)})
    decoder["x"].weight.data.copy_(base.weight)
    live = registry.attach(decoder, replace(config, dropout=0.0, rank_dropout=0.0), {"x": rank}, seed=0)
    assert isinstance(live, LiveLayers)
    random = rng.generator("ours")
    with torch.no_grad():
        for parameter in live.parameters:
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=size)
    return live.layers["x"].eval()


def linear(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> nn.Linear:
    base = nn.Linear(columns, rows, bias=False).requires_grad_(False)
    base.weight.data = torch.randn(rows, columns, generator=rng.generator("base")) / columns ** 0.5
    return base.to(dtype)


def added(layer: nn.Module, x: Tensor) -> Tensor:
    """Output of one of LyCORIS's modules without that of its base layer."""
    values: Any = layer
    values.org_forward = lambda x: torch.zeros(())
    out: Tensor = values(x)
    return out


@pytest.mark.parametrize("rank", [4, 6])
@pytest.mark.parametrize("config", SEPARATE.values(), ids=SEPARATE)
def test_lycoris_reads_equal_deltas(config: AdapterConfig, rank: int) -> None:
    base = linear(48, 64)
    layer, reference = ours(config, base, rank), theirs(config, base, rank).eval()
    result = reference.load_state_dict(layer.saved())
    assert not result.missing_keys
    assert not result.unexpected_keys
    x = torch.randn(5, 64, generator=rng.generator("x"))
    outputs = []
    for change in (added(reference, x), layer(x) - base(x), F.linear(x, layer.delta("x").delta.float())):
        outputs.append(change.detach())
    assert deviation(outputs[1], outputs[0]) <= FP32
    assert deviation(outputs[2], outputs[0]) <= FP32
    assert deviation(outputs[1] * (1 + PERTURBED), outputs[0]) > FP32


@pytest.mark.parametrize("config", SEPARATE.values(), ids=SEPARATE)
def test_lycoris_has_equal_gradients(config: AdapterConfig) -> None:
    base = linear(48, 64)
    layer, reference = ours(config, base, 4), theirs(config, base, 4).eval()
    reference.load_state_dict(layer.saved())
    x = torch.randn(5, 64, generator=rng.generator("x"))
    layer(x).square().sum().backward()
    reference(x).square().sum().backward()
    expected = {name.removesuffix(".weight"): parameter.grad for name, parameter in reference.named_parameters()}
    found = {layer.algorithm.file_name(name).removesuffix(".weight"): parameter.grad
             for name, parameter in layer.matrices.items()}
    if layer.dora_scale is not None:
        found["dora_scale"] = layer.dora_scale.grad
    assert found.keys() == expected.keys()
    assert all(deviation(found[name], expected[name]) <= FP32 for name in found)
    assert all(deviation(found[name] * (1 + PERTURBED), expected[name]) > FP32 for name in found)


@pytest.mark.parametrize("factor", [-1, 1, 2, 4, 6, 8, 512, 5000])
@pytest.mark.parametrize("dim", [1, 7, 64, 128])
@pytest.mark.parametrize("both", [True, False])
def test_lokr_blocks_match_lycoris(factor: int, dim: int, both: bool) -> None:
    config = LokrConfig(factor=factor, linear_dim=dim, decompose_both=both)
    for rows, columns in ((2048, 2048), (1024, 2048), (6144, 2048), (4096, 2560), (2560, 9728), (127, 250)):
        with torch.device("meta"):
            reference = theirs(config, nn.Linear(columns, rows), dim)
        expected = {name: tuple(parameter.shape) for name, parameter in reference.named_parameters()}
        found = registry.trainable()[config.kind].matrices(config, dim, rows, columns)
        assert {name: (matrix.rows, matrix.columns) for name, matrix in found.items()} == expected


@pytest.mark.parametrize("config", [LoraConfig(rank=8, alpha=8.0, dora=True),
                                    LokrConfig(linear_dim=8, alpha=8.0, factor=4, weight_decompose=True),
                                    LohaConfig(rank=8, alpha=8.0)])
def test_small_delta_survives_bfloat16(config: AdapterConfig) -> None:
    """Why LyCORIS's modules are not used: they round the sum of weight and change."""
    base = linear(256, 256, torch.bfloat16)
    layer, reference = ours(config, base, 8, size=3e-4), theirs(config, base, 8).eval()
    reference.load_state_dict(layer.saved())
    x = torch.randn(9, 256, generator=rng.generator("x"))
    expected = F.linear(x.double(), layer.delta("x").delta.double())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found, lost = layer.delta_output(x.to(base.weight.dtype)), added(reference, x)
    assert deviation(found, expected) <= BF16
    assert deviation(lost, expected) > 5 * BF16


def test_dropout_acts_on_adapter_input() -> None:
    base = linear(48, 64)
    for config in LYCORIS.values():
        layer = ours(config, base, 4)
        delta = layer.delta("x").delta.float()
        layer.dropout = 0.5
        layer.train()
        x = torch.randn(50, 64, generator=rng.generator("x"))
        torch.manual_seed(1)
        found = layer(x) - base(x)
        torch.manual_seed(1)
        mask = draw_mask(x, 0.5, Switch(), "x")
        assert deviation(found, F.linear(mask_scale(0.5) * apply_mask(x, mask), delta)) <= FP32
        assert deviation(found, F.linear(x, delta)) > FP32


@pytest.mark.parametrize(("module", "message"), [("layers.9.self_attn.q_proj", "which this decoder does not have"),
                                                 ("layers.0.self_attn.q_norm", "a RMSNorm, not a linear layer")])
def test_bad_target_changes_nothing(checkpoint: Checkpoint, module: str, message: str) -> None:
    decoder = fresh(checkpoint)
    before = [type(part) for part in decoder.modules()]
    with pytest.raises(AdapterError, match=message):
        registry.attach(decoder, LohaConfig(), {"layers.0.self_attn.q_proj": 2, module: 2}, seed=0)
    assert [type(part) for part in decoder.modules()] == before


@pytest.mark.parametrize("name", ["lokr-scalar", "lokr-full-scalar", "loha-scalar", "lokr-both-scalar"])
@pytest.mark.parametrize("scalar", [0.7, -1 / 3, 1e-6, 0.0])
def test_scalar_round_trips_through_alpha(name: str, scalar: float) -> None:
    base = linear(48, 64)
    one, other = ours(LYCORIS[name], base, 3), ours(LYCORIS[name], base, 3, size=0.2)
    assert one.scalar is not None
    assert other.scalar is not None
    with torch.no_grad():
        one.scalar.fill_(scalar)
    other.restore(one.saved())
    assert all(torch.equal(mine, its) for mine, its in zip(one.trained(), other.trained(), strict=True))
    assert "scalar" not in one.saved()
