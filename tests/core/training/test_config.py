"""Settings of a training: valid ranges, messages, defaults, and derived lengths."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core.config import BasePrecision
from sidestep_core.errors import ConfigError
from sidestep_core.io.text import bad_character
from sidestep_core.training import config as train_config
from sidestep_core.training.config import TrainConfig

positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
finite = st.floats(allow_infinity=False, allow_nan=False)
not_negative = st.floats(min_value=0, allow_infinity=False)
counts = st.integers(1, 10**9)
from_zero = st.integers(0, 10**9)
share = st.floats(0, 1)
texts = st.text(st.characters(exclude_categories=("C",))).filter(lambda text: not bad_character(text))


def one_of(literal: Any) -> st.SearchStrategy[str]:
    return st.sampled_from(get_args(literal))


FIELDS = dict(
    max_steps=counts, epochs=from_zero, optimizer=one_of(train_config.Optimizer), learning_rate=positive,
    schedule=one_of(train_config.Schedule), warmup_steps=from_zero, restarts=counts, weight_decay=not_negative,
    max_grad_norm=positive, batch_size=counts, gradient_accumulation=counts,
    ema_decay=st.floats(0, 1, exclude_max=True), timestep_mode=one_of(train_config.TimestepMode),
    timestep_preset=one_of(train_config.TimestepPreset), timestep_mu=finite, timestep_sigma=positive,
    discrete_shift=one_of(train_config.DiscreteShift), loss_weighting=one_of(train_config.LossWeighting),
    snr_gamma=positive, cfg_ratio=st.none() | share, genre_ratio=st.none() | share,
    context_mode=one_of(train_config.ContextMode), codes_ratio=share,
    chunk_duration=st.just(0.0) | st.floats(min_value=1, allow_infinity=False),
    heldout_songs=st.none() | from_zero, heldout_every=counts,
    early_stopping=from_zero, target_loss=not_negative, publish=one_of(train_config.Publish), save_every=counts,
    save_minutes=not_negative, keep_checkpoints=from_zero, tensorboard=st.booleans(), log_every=counts,
    log_heavy_every=counts,
    preview_every=from_zero, preview_caption=texts, preview_lyrics=texts, preview_seconds=st.floats(1, 600),
    shift=st.none() | positive, inference_steps=st.none() | counts, seed=st.integers(0, 2**64), device=texts,
    precision=one_of(train_config.Precision), gradient_checkpointing=one_of(train_config.Checkpointing),
    attention=one_of(train_config.Choice),
    timestep_sampling=one_of(train_config.TimestepSampling),
    crop_lyrics=one_of(train_config.CropLyrics), lyrics_dropout=share, caption_dropout=share,
    preserve=share, guidance=st.just(0.0) | st.floats(min_value=1, allow_infinity=False),
    lora_plus_ratio=st.just(0.0) | st.floats(min_value=1, allow_infinity=False),
    devices=one_of(train_config.Devices), compile=one_of(train_config.Compile),
    base_precision=one_of(BasePrecision), offload=one_of(train_config.Offload), allow_fewer_bits=st.booleans(),
)  # fmt: skip


def test_every_field_is_generated() -> None:
    assert FIELDS.keys() == {field.name for field in fields(TrainConfig)}


@given(config=st.builds(TrainConfig, **FIELDS))
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_json_round_trip(config: TrainConfig) -> None:
    travelled = TrainConfig.from_json(json.loads(json.dumps(config.to_json(), allow_nan=False)))
    assert travelled == config
    assert travelled.to_json() == config.to_json()


AT_LEAST_ONE = ("max_steps", "restarts", "batch_size", "gradient_accumulation", "heldout_every", "save_every",
                "log_every", "log_heavy_every")
NOT_NEGATIVE = ("epochs", "warmup_steps", "weight_decay", "seed", "early_stopping", "target_loss",
                "save_minutes", "keep_checkpoints", "preview_every")
ABOVE_ZERO = ("learning_rate", "max_grad_norm", "timestep_sigma", "snr_gamma")
SHARES = ("genre_ratio", "codes_ratio", "cfg_ratio", "preserve", "lyrics_dropout", "caption_dropout")
WRONG: list[tuple[str, Any, str]] = [
    *((name, 0, "at least 1, got 0") for name in AT_LEAST_ONE),
    *((name, -1, "not be negative, got -1") for name in NOT_NEGATIVE),
    *((name, 0, "above 0, got 0") for name in ABOVE_ZERO),
    *((name, -0.1, "-0.1") for name in (*SHARES, "ema_decay")),
    *((name, 1.1, "1.1") for name in SHARES),
    ("guidance", 0.5, "0.5"),
    ("lora_plus_ratio", 0.5, "0.5"), ("devices", "two", "two"),
    *((name, "often", "'often'") for name in (
        "optimizer", "schedule", "timestep_mode", "timestep_preset", "discrete_shift", "timestep_sampling",
        "loss_weighting", "crop_lyrics", "context_mode", "publish", "precision", "gradient_checkpointing", "attention",
        "base_precision", "offload", "compile")),
    ("max_steps", "100", "'100'"),
    ("max_steps", None, "None"),
    ("timestep_mu", "0", "'0'"),
    ("discrete_shift", 3, "3"),
    ("ema_decay", 1.0, "1.0"),
    ("chunk_duration", 0.5, "0.5"),
    ("chunk_duration", -2.0, "-2.0"),
    ("heldout_songs", -1, "-1"),
    ("shift", 0.0, "0.0"),
    ("shift", -1.0, "-1.0"),
    ("inference_steps", 0, "0"),
    ("cfg_ratio", -1.0, "-1.0"),
    ("preview_seconds", 0.5, "0.5"),
    ("preview_seconds", 601.0, "601.0"),
    ("preview_caption", 3, "3"),
    ("device", None, "None"),
    ("gradient_checkpointing", True, "True"),
]


@pytest.mark.parametrize(("name", "value", "named"), WRONG)
def test_invalid_settings_are_named(name: str, value: Any, named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        TrainConfig(**{name: value})
    assert name in str(refused.value)
    assert named in str(refused.value)


def test_every_setting_is_checked() -> None:
    """Lyrics may be anything, and switches are tested for all configs together."""
    assert {name for name, _, _ in WRONG} | {"preview_lyrics", "tensorboard", "allow_fewer_bits"} == FIELDS.keys()


def test_defaults_match_side_step() -> None:
    config = TrainConfig()
    assert (config.learning_rate, config.batch_size, config.gradient_accumulation, config.seed) == (1e-4, 1, 4, 42)
    assert (config.optimizer, config.schedule, config.warmup_steps) == ("adamw", "auto", 100)
    assert (config.weight_decay, config.max_grad_norm) == (0.01, 1.0)
    assert (config.timestep_mu, config.timestep_sigma) == (-0.4, 1.0)
    assert (config.loss_weighting, config.snr_gamma) == ("none", 5.0)
    assert (config.log_every, config.log_heavy_every) == (10, 50)


def test_crop_in_frames() -> None:
    assert TrainConfig().chunk_frames == 0
    assert TrainConfig(chunk_duration=60).chunk_frames == 1500
    assert all(TrainConfig(chunk_duration=frames / 25).chunk_frames == frames for frames in range(25, 15_000))


@pytest.mark.parametrize(("values", "songs", "steps"), [
    ({"max_steps": 7}, 10, 7),
    ({"epochs": 1}, 10, 3),
    ({"epochs": 2}, 10, 5),
    ({"epochs": 100, "batch_size": 2, "gradient_accumulation": 2}, 10, 250),
    ({"epochs": 1}, 1, 1),
])
def test_total_steps_follow_epochs(values: dict[str, int], songs: int, steps: int) -> None:
    assert TrainConfig(**values).total_steps(songs) == steps
