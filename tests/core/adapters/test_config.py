"""Kinds of adapter and their places: what is valid, what is refused and how, and the way through JSON."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core.adapters.config import PROJECTIONS, AdapterConfig
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.registry import config_from_json, configs
from sidestep_core.errors import ConfigError

counts = st.integers(1, 10**9)
projections = st.lists(st.sampled_from(PROJECTIONS), unique=True).map(tuple)
PLACEMENT = dict(
    alpha=st.floats(min_value=0, exclude_min=True, allow_infinity=False), dropout=st.floats(0, 1, exclude_max=True),
    attention_type=st.sampled_from(["both", "self", "cross"]), target_modules=projections.filter(bool),
    self_target_modules=projections, cross_target_modules=projections, target_mlp=st.booleans(),
    rank_dropout=st.floats(0, 1, exclude_max=True),
    module_ranks=st.lists(st.from_regex(r"\A[a-z0-9_.*?]{1,9}=[0-9]{1,3}\Z"), max_size=3).map(tuple),
)  # fmt: skip
KIND_FIELDS: dict[type[AdapterConfig], dict[str, Any]] = {
    LoraConfig: dict(rank=counts, rslora=st.booleans(), dora=st.booleans()),
    LokrConfig: dict(linear_dim=counts, factor=st.just(-1) | counts, decompose_both=st.booleans(),
                     use_tucker=st.booleans(), use_scalar=st.booleans(), weight_decompose=st.booleans()),
    LohaConfig: dict(rank=counts, use_scalar=st.booleans(), weight_decompose=st.booleans()),
}  # fmt: skip
ALONE = ({"dora": st.just(False), "weight_decompose": st.just(False)}, {"rank_dropout": st.just(0.0)})
"""DoRA and rank_dropout exclude each other: one or the other is off."""
CONFIGS = st.one_of([
    st.builds(kind, **{**PLACEMENT, **own, **{name: value for name, value in off.items() if name in PLACEMENT | own}})
    for kind, own in KIND_FIELDS.items() for off in ALONE])


@pytest.mark.parametrize("kind", configs().values())
def test_every_field_is_tested(kind: type[AdapterConfig]) -> None:
    assert {*PLACEMENT, *KIND_FIELDS[kind]} == {field.name for field in fields(kind)}


@given(config=CONFIGS)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_json_round_trip(config: AdapterConfig) -> None:
    travelled = config_from_json(json.loads(json.dumps(config.to_json(), allow_nan=False)))
    assert travelled == config
    assert type(travelled) is type(config)


def test_default_kind_is_lora() -> None:
    assert config_from_json({"rank": 8}) == LoraConfig(rank=8)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="'oft' is unknown; there are lora, lokr, loha"):
        config_from_json({"kind": "oft"})


def test_settings_of_other_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="no setting rank"):
        config_from_json({"kind": "lokr", "rank": 8})


PLACES: list[tuple[dict[str, Any], str]] = [
    ({"alpha": 0.0}, "0.0"),
    ({"alpha": -8}, "-8"),
    ({"dropout": 1.0}, "1.0"),
    ({"dropout": -0.1}, "-0.1"),
    ({"rank_dropout": 1.0}, "1.0"),
    ({"rank_dropout": -0.1}, "-0.1"),
    ({"attention_type": "all"}, "'all'"),
    ({"target_modules": ()}, "empty"),
    ({"target_modules": ("q_proj", "gate_proj")}, "gate_proj"),
    ({"target_modules": ("q_proj", "q_proj")}, "twice"),
    ({"target_modules": "q_proj"}, "'q_proj'"),
    ({"target_modules": ("q_proj", 4)}, "4"),
    ({"self_target_modules": ("up_proj",)}, "up_proj"),
    ({"cross_target_modules": ("v_proj", "v_proj")}, "twice"),
    ({"target_mlp": "yes"}, "'yes'"),
    ({"module_ranks": ("layers.0.*",)}, "'layers.0.*'"),
    ({"module_ranks": ("layers.0.*=-4",)}, "'layers.0.*=-4'"),
    ({"module_ranks": ("a b=4",)}, "'a b=4'"),
]
OWN: list[tuple[type[AdapterConfig], dict[str, Any], str]] = [
    (LoraConfig, {"rank": 0}, "0"),
    (LoraConfig, {"rank": 8.0}, "8.0"),
    (LoraConfig, {"dora": None}, "None"),
    (LoraConfig, {"rank_dropout": 0.2, "dora": True}, "0.2"),
    (LohaConfig, {"rank_dropout": 0.2, "weight_decompose": True}, "0.2"),
    (LokrConfig, {"linear_dim": 0}, "0"),
    (LokrConfig, {"factor": 0}, "0"),
    (LokrConfig, {"factor": -2}, "-2"),
    (LohaConfig, {"rank": 0}, "0"),
]


@pytest.mark.parametrize(("kind", "values", "named"), [
    *((kind, values, named) for kind in configs().values() for values, named in PLACES), *OWN,
])
def test_invalid_settings_are_named(kind: type[AdapterConfig], values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        kind(**values)
    assert next(iter(values)) in str(refused.value)
    assert named in str(refused.value)


def test_defaults_are_side_steps() -> None:
    lora, lokr = LoraConfig(), LokrConfig()
    assert (lora.rank, lora.alpha, lora.dropout, lora.attention_type) == (64, 128.0, 0.1, "both")
    assert lora.target_modules == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert (lora.self_target_modules, lora.cross_target_modules, lora.target_mlp) == ((), (), False)
    assert (lokr.linear_dim, lokr.alpha, lokr.factor) == (64, 128.0, -1)
    assert not any((lokr.decompose_both, lokr.use_tucker, lokr.use_scalar, lokr.weight_decompose))
