"""Every config is valid, and round-trips through JSON."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.config import Config
from sidestep_core.dataset.config import PreprocessConfig
from sidestep_core.errors import ConfigError
from sidestep_core.io import strict_json
from sidestep_core.io.atomic import write_json
from sidestep_core.training.config import TrainConfig

CONFIGS = [PreprocessConfig, LoraConfig, LokrConfig, LohaConfig, TrainConfig]


def settings_of(config: Config) -> dict[str, Any]:
    """Return the config's JSON without the kind of adapter, which its reader handles."""
    return {key: value for key, value in config.to_json().items() if key != "kind"}


@pytest.mark.parametrize("kind", CONFIGS)
def test_defaults_round_trip(kind: type[Config], tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", settings_of(kind()))
    assert kind.from_json(strict_json.read(tmp_path / "config.json")) == kind()


@pytest.mark.parametrize("kind", CONFIGS)
def test_omitted_settings_keep_defaults(kind: type[Config]) -> None:
    assert kind.from_json({}) == kind()


@pytest.mark.parametrize("kind", CONFIGS)
def test_unknown_settings_are_named(kind: type[Config]) -> None:
    with pytest.raises(ConfigError, match="no setting lerning_rate, zeal"):
        kind.from_json({"zeal": 1, "lerning_rate": 2})


@pytest.mark.parametrize("kind", CONFIGS)
def test_config_is_frozen(kind: type[Config]) -> None:
    config = kind()
    with pytest.raises(FrozenInstanceError):
        setattr(config, fields(kind)[0].name, None)


NUMBERS = [(kind, field.name) for kind in CONFIGS for field in fields(kind)
           if isinstance(field.default, (int, float)) and not isinstance(field.default, bool)]
FLOATS = [(kind, name) for kind, name in NUMBERS if isinstance(getattr(kind(), name), float)]
SWITCHES = [(kind, field.name) for kind in CONFIGS for field in fields(kind) if isinstance(field.default, bool)]


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_true_is_not_a_number(kind: type[Config], name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be .*True"):
        kind(**{name: True})


@pytest.mark.parametrize(("kind", "name"), SWITCHES)
def test_one_is_not_true(kind: type[Config], name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be .*1"):
        kind(**{name: 1})


@pytest.mark.parametrize(("kind", "name"), FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_value_is_refused(kind: type[Config], name: str, value: float) -> None:
    """JSON lacks such numbers, and training with them cannot work."""
    with pytest.raises(ConfigError, match=name):
        kind(**{name: value})


def test_int_is_accepted_for_float() -> None:
    assert LoraConfig(alpha=64) == LoraConfig(alpha=64.0)
    assert TrainConfig.from_json({"chunk_duration": 30}) == TrainConfig(chunk_duration=30.0)


@pytest.mark.parametrize(("values", "named"), [
    ({"max_seconds": 0.5}, "0.5"),
    ({"max_seconds": -1.0}, "-1.0"),
    ({"tile_seconds": 0.0}, "0.0"),
    ({"trigger_position": "replace"}, "trigger_word is empty"),
    ({"trigger_position": "replace", "trigger_word": "  "}, "trigger_word is empty"),
    ({"trigger_position": "middle", "trigger_word": "x"}, "'middle'"),
    ({"trigger_word": 3}, "3"),
])
def test_bad_preprocess_settings_are_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        PreprocessConfig(**values)
    assert next(iter(values)) in str(refused.value)
    assert named in str(refused.value)
