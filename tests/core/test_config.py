"""A config that exists is valid, and it comes back from JSON as it went."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core.config import PROJECTIONS, Config, LoraConfig, PreprocessConfig, TrainConfig
from sidestep_core.errors import ConfigError
from sidestep_core.storage import read_json, write_json

CONFIGS = [PreprocessConfig, LoraConfig, TrainConfig]

positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
finite = st.floats(allow_infinity=False, allow_nan=False)
not_negative = st.floats(min_value=0, allow_infinity=False, allow_nan=False)
counts = st.integers(1, 10**9)
seconds = st.just(0.0) | st.floats(min_value=1, allow_infinity=False)

TRAIN_FIELDS = dict(
    max_steps=counts, learning_rate=positive, schedule=st.sampled_from(["cosine", "constant"]),
    warmup_steps=st.integers(0, 10**9), batch_size=counts, gradient_accumulation=counts, weight_decay=not_negative,
    max_grad_norm=positive, cfg_ratio=st.floats(0, 1), timestep_mu=st.none() | finite,
    timestep_sigma=st.none() | positive, crop_seconds=seconds, heldout_songs=st.integers(-1, 10**6),
    heldout_every=counts, save_every=counts, seed=st.integers(0, 2**64), device=st.text(),
    precision=st.sampled_from(["auto", "bf16", "fp32"]), gradient_checkpointing=st.booleans(),
)  # fmt: skip
train_configs = st.builds(TrainConfig, **TRAIN_FIELDS)
lora_configs = st.builds(
    LoraConfig, rank=counts, alpha=positive, dropout=st.floats(0, 1, exclude_max=True),
    attention=st.sampled_from(["both", "self", "cross"]),
    projections=st.lists(st.sampled_from(PROJECTIONS), min_size=1, unique=True).map(tuple),
)  # fmt: skip
preprocess_configs = st.builds(
    PreprocessConfig, trigger_word=st.text(min_size=1).filter(str.strip), max_seconds=seconds,
    trigger_position=st.sampled_from(["prepend", "append", "replace"]),
    tile_seconds=st.floats(min_value=1, allow_infinity=False),
)  # fmt: skip


def test_every_field_of_the_training_takes_part_in_the_round_trip() -> None:
    assert TRAIN_FIELDS.keys() == {field.name for field in fields(TrainConfig)}


@given(config=train_configs | lora_configs | preprocess_configs)
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_a_config_comes_back_from_json_as_it_went(config: Config) -> None:
    travelled = type(config).from_json(json.loads(json.dumps(config.to_json(), allow_nan=False)))
    assert travelled == config
    assert travelled.to_json() == config.to_json()


@pytest.mark.parametrize("kind", CONFIGS)
def test_defaults_are_valid_and_survive_a_file(kind: type[Config], tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", kind().to_json())
    assert kind.from_json(read_json(tmp_path / "config.json")) == kind()


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_not_said_keeps_its_default(kind: type[Config]) -> None:
    assert kind.from_json({}) == kind()


@pytest.mark.parametrize("kind", CONFIGS)
def test_unknown_settings_are_named(kind: type[Config]) -> None:
    with pytest.raises(ConfigError, match=f"{kind.__name__} has no setting lerning_rate, zeal"):
        kind.from_json({"zeal": 1, "lerning_rate": 2})


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_cannot_be_changed(kind: type[Config]) -> None:
    config = kind()
    with pytest.raises(FrozenInstanceError):
        setattr(config, fields(kind)[0].name, None)


WRONG: list[tuple[type[Config], dict[str, Any], str]] = [
    (PreprocessConfig, {"max_seconds": 0.5}, "0.5"),
    (PreprocessConfig, {"max_seconds": -1.0}, "-1.0"),
    (PreprocessConfig, {"tile_seconds": 0.0}, "0.0"),
    (PreprocessConfig, {"trigger_position": "replace"}, "trigger_word is empty"),
    (PreprocessConfig, {"trigger_position": "replace", "trigger_word": "  "}, "trigger_word is empty"),
    (PreprocessConfig, {"trigger_position": "middle", "trigger_word": "x"}, "'middle'"),
    (PreprocessConfig, {"trigger_word": 3}, "3"),
    (LoraConfig, {"rank": 0}, "0"),
    (LoraConfig, {"rank": 8.0}, "8.0"),
    (LoraConfig, {"alpha": 0.0}, "0.0"),
    (LoraConfig, {"alpha": -8}, "-8"),
    (LoraConfig, {"dropout": 1.0}, "1.0"),
    (LoraConfig, {"dropout": -0.1}, "-0.1"),
    (LoraConfig, {"attention": "all"}, "'all'"),
    (LoraConfig, {"projections": ()}, "empty"),
    (LoraConfig, {"projections": ("q_proj", "gate_proj")}, "gate_proj"),
    (LoraConfig, {"projections": ("q_proj", "q_proj")}, "twice"),
    (LoraConfig, {"projections": "q_proj"}, "'q_proj'"),
    (LoraConfig, {"projections": ("q_proj", 4)}, "4"),
    (TrainConfig, {"max_steps": 0}, "0"),
    (TrainConfig, {"max_steps": "100"}, "'100'"),
    (TrainConfig, {"max_steps": None}, "None"),
    (TrainConfig, {"learning_rate": 0}, "0"),
    (TrainConfig, {"learning_rate": -1e-4}, "-0.0001"),
    (TrainConfig, {"schedule": "linear"}, "'linear'"),
    (TrainConfig, {"warmup_steps": -1}, "-1"),
    (TrainConfig, {"batch_size": 0}, "0"),
    (TrainConfig, {"gradient_accumulation": 0}, "0"),
    (TrainConfig, {"weight_decay": -0.1}, "-0.1"),
    (TrainConfig, {"max_grad_norm": 0.0}, "0.0"),
    (TrainConfig, {"cfg_ratio": -0.1}, "-0.1"),
    (TrainConfig, {"cfg_ratio": 1.1}, "1.1"),
    (TrainConfig, {"timestep_mu": "0"}, "'0'"),
    (TrainConfig, {"timestep_sigma": 0.0}, "0.0"),
    (TrainConfig, {"timestep_sigma": -1.0}, "-1.0"),
    (TrainConfig, {"crop_seconds": 0.5}, "0.5"),
    (TrainConfig, {"crop_seconds": -2.0}, "-2.0"),
    (TrainConfig, {"heldout_songs": -2}, "-2"),
    (TrainConfig, {"heldout_every": 0}, "0"),
    (TrainConfig, {"save_every": 0}, "0"),
    (TrainConfig, {"seed": -1}, "-1"),
    (TrainConfig, {"device": None}, "None"),
    (TrainConfig, {"precision": "fp16"}, "'fp16'"),
    (TrainConfig, {"gradient_checkpointing": 1}, "1"),
]


@pytest.mark.parametrize(("kind", "values", "named"), WRONG)
def test_invalid_settings_are_refused_by_name_and_value(kind: type[Config], values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        kind(**values)
    assert next(iter(values)) in str(refused.value)
    assert named in str(refused.value)


NUMBERS = [(kind, field.name) for kind in CONFIGS for field in fields(kind)
           if isinstance(field.default, (int, float)) and not isinstance(field.default, bool)]


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_true_is_not_a_number(kind: type[Config], name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be .*True"):
        kind(**{name: True})


FLOATS = [(kind, name) for kind, name in NUMBERS if isinstance(getattr(kind(), name), float)]
FLOATS += [(TrainConfig, "timestep_mu"), (TrainConfig, "timestep_sigma")]


@pytest.mark.parametrize(("kind", "name"), FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(kind: type[Config], name: str, value: float) -> None:
    """It could not travel as JSON, and training with it cannot work."""
    with pytest.raises(ConfigError, match=name):
        kind(**{name: value})


def test_a_whole_number_may_stand_for_a_float() -> None:
    assert LoraConfig(alpha=64) == LoraConfig(alpha=64.0)
    assert TrainConfig.from_json({"crop_seconds": 30}) == TrainConfig(crop_seconds=30.0)


def test_the_defaults_that_users_rely_on() -> None:
    lora, train = LoraConfig(), TrainConfig()
    assert (lora.rank, lora.alpha, lora.projections) == (64, 128.0, ("q_proj", "k_proj", "v_proj", "o_proj"))
    assert (train.learning_rate, train.gradient_accumulation, train.cfg_ratio, train.seed) == (1e-4, 4, 0.15, 42)
