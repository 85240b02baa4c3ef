"""Exactly the modules that were asked for, by names that the decoder has, each with its rank."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import nn

from sidestep_core.adapters.config import MLP_PROJECTIONS, PROJECTIONS, AdapterConfig
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.errors import ConfigError
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.decoder import load_decoder


@pytest.mark.parametrize(("layers", "one", "mlp"), [(24, 96, 72), (32, 128, 96)], ids=["2B", "XL"])
@pytest.mark.parametrize(("attention", "count"), [("self", 1), ("cross", 1), ("both", 2)])
def test_target_counts_match_documentation(layers: int, one: int, mlp: int, attention: str, count: int) -> None:
    assert len(target_modules(LoraConfig(attention_type=attention), layers)) == count * one
    assert len(target_modules(LoraConfig(attention_type=attention, target_mlp=True), layers)) == count * one + mlp


@pytest.mark.parametrize("attention", ["both", "self", "cross"])
@pytest.mark.parametrize("projections", [PROJECTIONS, ("q_proj",), ("k_proj", "o_proj")])
@pytest.mark.parametrize("mlp", [True, False])
def test_targets_follow_decoder_order(checkpoint: Checkpoint, attention: str, projections: tuple[str, ...],
                                      mlp: bool) -> None:
    decoder = load_decoder(checkpoint.model_weights().under("decoder."), torch.float32, torch.device("cpu"))
    wanted = {("self_attn", projection) for projection in projections if attention != "cross"}
    wanted |= {("cross_attn", projection) for projection in projections if attention != "self"}
    wanted |= {("mlp", projection) for projection in MLP_PROJECTIONS if mlp}
    expected = [name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)
                and tuple(name.split(".")[-2:]) in wanted]
    config = LoraConfig(attention_type=attention, target_modules=projections, target_mlp=mlp)
    assert list(target_modules(config, 2)) == expected


def test_order_of_projections_is_ignored() -> None:
    orders = permutations(("q_proj", "k_proj", "v_proj"))
    assert len({tuple(target_modules(LoraConfig(target_modules=order), 2)) for order in orders}) == 1


def test_attentions_have_own_lists() -> None:
    config = LoraConfig(target_modules=("o_proj",), self_target_modules=("v_proj", "q_proj"))
    assert list(target_modules(config, 1)) == [
        "layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj", "layers.0.cross_attn.o_proj"]
    config = LoraConfig(target_modules=("o_proj",), cross_target_modules=("k_proj",), attention_type="cross")
    assert list(target_modules(config, 1)) == ["layers.0.cross_attn.k_proj"]


@pytest.mark.parametrize("config", [LoraConfig(rank=5), LoraConfig(rank=5, dora=True), LokrConfig(linear_dim=5),
                                    LohaConfig(rank=5)])
def test_modules_have_base_rank(config: AdapterConfig) -> None:
    assert set(target_modules(config, 3).values()) == {5}


def test_last_matching_pattern_counts() -> None:
    config = LoraConfig(rank=4, attention_type="self", target_modules=("q_proj", "v_proj"),
                        module_ranks=("layers.1.*=0", "*.q_proj=16", "layers.1?.*=3", "layers.0.self_attn.v_proj=1"))
    ranks = target_modules(config, 11)
    assert ranks["layers.0.self_attn.q_proj"] == 16
    assert ranks["layers.0.self_attn.v_proj"] == 1
    assert ranks["layers.1.self_attn.q_proj"] == 16
    assert "layers.1.self_attn.v_proj" not in ranks
    assert ranks["layers.2.self_attn.v_proj"] == 4
    assert ranks["layers.10.self_attn.q_proj"] == 3
    assert len(ranks) == 21


@pytest.mark.parametrize(("entry", "message"), [
    ("layers.7.*=3", r"'layers\.7\.\*=3', which fits no module of this decoder of 4 layers"),
    ("q_proj=3", r"'q_proj=3', which fits no module"),
    ("Layers.0.*=3", r"'Layers\.0\.\*=3', which fits no module"),
    ("*.mlp.*=3", r"'\*\.mlp\.\*=3', which fits only modules that are not chosen"),
    ("*.cross_attn.q_proj=3", r"fits only modules that are not chosen: attention_type is 'self'"),
    ("*=0", r"leaves out every module"),
])  # fmt: skip
def test_unused_pattern_is_an_error(entry: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        target_modules(LoraConfig(attention_type="self", module_ranks=("layers.0.*=2", entry)), 4)


@pytest.mark.parametrize(("config", "rank", "expected"), [
    (LoraConfig(rank=8, alpha=16.0), 8, 2.0),
    (LoraConfig(rank=8, alpha=16.0), 2, 2.0),
    (LokrConfig(linear_dim=8, alpha=4.0), 3, 0.5),
    (LohaConfig(rank=8, alpha=4.0), 3, 0.5),
    (LoraConfig(rank=8, alpha=16.0, rslora=True), 4, 8.0),
    (LoraConfig(rank=8, alpha=16.0, rslora=True, dora=True), 64, 2.0),
])  # fmt: skip
def test_scale_ignores_module_rank(config: AdapterConfig, rank: int, expected: float) -> None:
    assert config.scaling(rank) == expected
