"""Settings as people write them: read by their types, and what cannot be read is named."""

from __future__ import annotations

from typing import Any

import pytest

from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.config import Config
from sidestep_core.errors import ConfigError
from sidestep_core.presets.text import change, check_known, parse, read_lines
from sidestep_core.training.config import TrainConfig


@pytest.mark.parametrize(("kind", "name", "text", "value"), [
    (TrainConfig, "max_steps", "500", 500),
    (TrainConfig, "max_steps", "5.5", "5.5"),
    (TrainConfig, "learning_rate", "2e-4", 2e-4),
    (TrainConfig, "learning_rate", "fast", "fast"),
    (TrainConfig, "schedule", "linear", "linear"),
    (TrainConfig, "gradient_checkpointing", "on", "on"),
    (TrainConfig, "discrete_shift", "2", "2"),
    (TrainConfig, "preview_caption", "", ""),
    (TrainConfig, "tensorboard", "Yes", True),
    (TrainConfig, "tensorboard", "off", False),
    (TrainConfig, "tensorboard", "1", "1"),
    (LoraConfig, "target_modules", "q_proj, v_proj k_proj", ("q_proj", "v_proj", "k_proj")),
    (LoraConfig, "self_target_modules", "", ()),
])
def test_text_becomes_the_type_of_the_setting(kind: type[Config], name: str, text: str, value: Any) -> None:
    found = parse(kind, name, text)
    assert found == value
    assert type(found) is type(value)


def test_lines_are_read() -> None:
    text = "# mine\n\nlearning_rate: 2e-4\n  preview_caption : warm: and slow \r\npreview_lyrics:"
    assert read_lines(text) == {"learning_rate": "2e-4", "preview_caption": "warm: and slow", "preview_lyrics": ""}


@pytest.mark.parametrize(("text", "said"), [
    ("learning_rate 2e-4", "'learning_rate 2e-4'"),
    (": 3", "': 3'"),
    ("rank: 8\nrank: 16", "rank is changed twice"),
])
def test_lines_that_say_nothing_clear_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_lines(text)


def test_a_config_takes_what_is_its_own() -> None:
    lines = {"rank": "8", "max_steps": "5", "target_modules": "q_proj"}
    assert change(LoraConfig(), lines) == LoraConfig(rank=8, target_modules=("q_proj",))
    assert change(TrainConfig(seed=1), lines) == TrainConfig(seed=1, max_steps=5)


def test_a_value_out_of_range_is_refused_by_the_config() -> None:
    with pytest.raises(ConfigError, match="rank must be at least 1, got 0"):
        change(LoraConfig(), {"rank": "0"})
    with pytest.raises(ConfigError, match="max_steps must be a whole number, got 'many'"):
        change(TrainConfig(), {"max_steps": "many"})
    with pytest.raises(ConfigError, match="learning_rate must be finite"):
        change(TrainConfig(), {"learning_rate": "nan"})


def test_unknown_names_are_named_with_the_closest_that_there_are() -> None:
    check_known({"rank": "8", "max_steps": "5"}, (LoraConfig(), TrainConfig()))
    with pytest.raises(ConfigError, match="no setting lerning_rate. Did you mean learning_rate"):
        check_known({"lerning_rate": "1"}, (LoraConfig(), TrainConfig()))
    with pytest.raises(ConfigError, match="no setting xyzzy. There are alpha, dropout"):
        check_known({"xyzzy": "1"}, (LoraConfig(), TrainConfig()))
