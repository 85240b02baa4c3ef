"""Settings of an estimate are validated, and give the training that it measures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sidestep_core.errors import ConfigError
from sidestep_core.estimate.config import EstimateConfig
from sidestep_core.training.config import TrainConfig


def test_settings_come_back_as_they_went() -> None:
    config = EstimateConfig(score="fisher", estimate_batches=30, attention_type="self", target_mlp=False, seed=3,
                            chunk_duration=0, device="cpu", precision="fp32")
    assert EstimateConfig.from_json(config.to_json()) == config
    assert EstimateConfig.from_json({}) == EstimateConfig()


@pytest.mark.parametrize(("settings", "problem"), [
    ({"score": "luck"}, "score must be"),
    ({"estimate_batches": 3}, r"estimate_batches must be 0 \(automatic\) or at least 4, got 3"),
    ({"estimate_batches": -1}, "estimate_batches must be 0"),
    ({"chunk_duration": 0.5}, "chunk_duration must be 0"),
    ({"chunk_duration": float("nan")}, "chunk_duration must be finite"),
    ({"seed": -1}, "seed must not be negative"),
    ({"precision": "fp16"}, "precision must be"),
    ({"attention_type": "none"}, "attention_type must be"),
    ({"target_mlp": 1}, "target_mlp must be true or false"),
])  # fmt: skip
def test_wrong_settings_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        EstimateConfig(**settings)


def test_training_has_batch_size_one() -> None:
    found = EstimateConfig(seed=9, chunk_duration=30.0, device="cpu", precision="bf16").training()
    usual = TrainConfig(seed=9, chunk_duration=30.0, device="cpu", precision="bf16")
    assert (found.batch_size, found.gradient_accumulation, found.heldout_songs, found.cfg_ratio) == (1, 1, 0, 0.0)
    same = ("batch_size", "gradient_accumulation", "heldout_songs", "cfg_ratio", "max_steps")
    assert replace(usual, **{name: getattr(found, name) for name in same}) == found
