"""Settings as text are parsed by their types; bad lines are named."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.config import Config
from sidestep_core.dataset.config import PreprocessConfig
from sidestep_core.errors import ConfigError
from sidestep_core.estimate.config import EstimateConfig
from sidestep_core.presets.text import WORDS, apply_changes, parse_lines, parse_setting, require_known, spell
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
    (TrainConfig, "chunk_duration", "60", 60.0),
    (TrainConfig, "chunk_duration", "Whole songs", 0.0),
    (TrainConfig, "keep_checkpoints", "all", 0),
    (TrainConfig, "save_every", "100", 100),
    (TrainConfig, "heldout_songs", "automatic", TrainConfig.heldout_songs),
    (TrainConfig, "cfg_ratio", "0.1", 0.1),
    (LoraConfig, "target_modules", "q_proj, v_proj k_proj", ("q_proj", "v_proj", "k_proj")),
    (LoraConfig, "self_target_modules", "", ()),
    (TrainConfig, "cfg_ratio", "auto", None), (TrainConfig, "cfg_ratio", "0.2", 0.2),
    (TrainConfig, "heldout_songs", "Automatic", None), (TrainConfig, "heldout_songs", "2", 2),
    (EstimateConfig, "estimate_batches", "automatic", 0), (EstimateConfig, "estimate_batches", "24", 24),
    (EstimateConfig, "chunk_duration", "whole songs", 0.0), (EstimateConfig, "chunk_duration", "60", 60.0),
    (PreprocessConfig, "max_seconds", "whole songs", 0.0), (PreprocessConfig, "max_seconds", "0.0", 0.0),
    (LokrConfig, "factor", "automatic", -1), (LokrConfig, "factor", "-1", -1), (LokrConfig, "factor", "8", 8),
])
def test_text_is_converted(kind: type[Config], name: str, text: str, value: Any) -> None:
    found = parse_setting(kind, name, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("name", sorted(WORDS.keys() & {field.name for field in fields(TrainConfig)}))
def test_words_and_numbers_are_read_back(name: str) -> None:
    values = [0, 1, 25, getattr(TrainConfig, name)]
    assert [parse_setting(TrainConfig, name, spell(TrainConfig, name, value)) for value in values] == values
    with pytest.raises(ConfigError, match=f"{name} must be a number or '{WORDS[name]}', got 'some'"):
        parse_setting(TrainConfig, name, "some")


def test_lines_are_parsed() -> None:
    text = "# mine\n\nlearning_rate: 2e-4\n  preview_caption : warm: and slow \r\npreview_lyrics:"
    assert parse_lines(text) == {"learning_rate": "2e-4", "preview_caption": "warm: and slow", "preview_lyrics": ""}


@pytest.mark.parametrize(("text", "problem"), [
    ("learning_rate 2e-4", "'learning_rate 2e-4'"),
    (": 3", "': 3'"),
    ("rank: 8\nrank: 16", "rank is changed twice"),
])
def test_bad_lines_are_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_lines(text)


def test_config_takes_its_own_settings() -> None:
    lines = {"rank": "8", "max_steps": "5", "target_modules": "q_proj"}
    assert apply_changes(LoraConfig(), lines) == LoraConfig(rank=8, target_modules=("q_proj",))
    assert apply_changes(TrainConfig(seed=1), lines) == TrainConfig(seed=1, max_steps=5)


def test_out_of_range_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="rank must be at least 1, got 0"):
        apply_changes(LoraConfig(), {"rank": "0"})
    with pytest.raises(ConfigError, match="max_steps must be a whole number, got 'many'"):
        apply_changes(TrainConfig(), {"max_steps": "many"})
    with pytest.raises(ConfigError, match="learning_rate must be finite"):
        apply_changes(TrainConfig(), {"learning_rate": "nan"})


def test_unknown_names_suggest_close_ones() -> None:
    require_known({"rank": "8", "max_steps": "5"}, (LoraConfig(), TrainConfig()))
    with pytest.raises(ConfigError, match="no setting lerning_rate. Did you mean learning_rate"):
        require_known({"lerning_rate": "1"}, (LoraConfig(), TrainConfig()))
    with pytest.raises(ConfigError, match="no setting xyzzy. There are alpha, dropout"):
        require_known({"xyzzy": "1"}, (LoraConfig(), TrainConfig()))
