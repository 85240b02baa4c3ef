"""Presets of Side-Step and of ace-lora-trainer: every setting is translated or named."""

from __future__ import annotations

from typing import Any

import pytest

from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.errors import ConfigError
from sidestep_core.presets import foreign as foreign
from sidestep_core.presets.foreign import translate
from sidestep_core.training.config import TrainConfig

SIDE_STEP_0_8 = {
    "name": "vram_12gb", "description": "Tight", "rank": 32, "alpha": 64, "dropout": 0.1,
    "target_modules_str": "q_proj k_proj v_proj o_proj", "attention_type": "both", "bias": "none",
    "learning_rate": 1e-4, "batch_size": 1, "gradient_accumulation": 4, "epochs": 100, "warmup_steps": 100,
    "weight_decay": 0.01, "max_grad_norm": 1.0, "seed": 42, "shift": 3.0, "num_inference_steps": 8,
    "optimizer_type": "adamw8bit", "scheduler_type": "cosine", "cfg_ratio": 0.15, "loss_weighting": "none",
    "snr_gamma": 5.0, "save_every": 10, "log_every": 10, "log_heavy_every": 50, "gradient_checkpointing": True,
    "offload_encoder": True,
}  # fmt: skip
SIDE_STEP_1_1 = {
    "adapter_type": "lokr", "rank": 64, "alpha": 128, "dropout": 0.1, "attention_type": "both", "target_mlp": True,
    "self_target_modules_str": "q_proj v_proj", "cross_target_modules_str": "k_proj", "lokr_linear_dim": 32,
    "lokr_linear_alpha": 16, "lokr_factor": 8, "lokr_decompose_both": True, "lokr_weight_decompose": True,
    "learning_rate": "0.0003", "epochs": 200, "dataset_repeats": 2, "max_steps": 0, "crop_mode": "seconds",
    "chunk_duration": 60, "max_latent_length": 750, "timestep_mode": "discrete", "loss_weighting": "flow_snr",
    "ema_decay": 0.999, "ema_start_step": 2000, "cosine_restarts_count": 3, "scheduler_type": "cosine_restarts",
    "gradient_checkpointing": True, "gradient_checkpointing_ratio": 0.5, "target_loss": 0.3, "save_best": True,
    "early_stop_patience": 80, "val_split": 0.1, "shift": 1.0, "num_inference_steps": 50, "weight_quantize": None,
}  # fmt: skip
ACE_LORA_TRAINER = {
    "_description": "High quality", "adapter_type": "lora", "optimizer_type": "prodigy", "scheduler_type": "cosine",
    "learning_rate": 5e-5, "batch_size": 1, "gradient_accumulation_steps": 4, "max_epochs": 1000,
    "save_every_n_epochs": 250, "warmup_steps": 200, "max_grad_norm": 1.0, "gradient_checkpointing": False,
    "encoder_offloading": False, "torch_compile": False, "max_latent_length": 1500, "lora_r": 128, "lora_alpha": 256,
    "lora_dropout": 0.05, "cfg_dropout_prob": 0.15, "loss_weighting": "min_snr", "snr_gamma": 5.0,
    "auto_save_best_after": 200, "early_stop_patience": 200, "attention_type": "self", "timestep_mu": -0.8,
    "timestep_sigma": 0.8, "sample_enabled": True, "sample_every_n_epochs": 20, "sample_prompt": "warm",
}  # fmt: skip


def test_early_side_step_presets() -> None:
    found = translate(SIDE_STEP_0_8)
    assert (found.name, found.description) == ("vram_12gb", "Tight")
    assert found.adapter == LoraConfig(rank=32, alpha=64, dropout=0.1)
    assert found.train == TrainConfig(epochs=100, optimizer="adamw8bit", schedule="cosine", cfg_ratio=0.15,
                                      save_every=25, gradient_checkpointing="on")


def test_later_side_step_presets() -> None:
    found = translate(SIDE_STEP_1_1)
    assert found.adapter == LokrConfig(
        linear_dim=32, alpha=16, factor=8, decompose_both=True, weight_decompose=True, dropout=0.0, target_mlp=True,
        self_target_modules=("q_proj", "v_proj"), cross_target_modules=("k_proj",))
    assert found.train == TrainConfig(
        learning_rate=3e-4, epochs=400, chunk_duration=60, timestep_mode="discrete", loss_weighting="none",
        ema_decay=0.999, restarts=3, schedule="cosine_restarts", gradient_checkpointing="auto", shift=1.0,
        inference_steps=50, early_stopping=4)


def test_ace_lora_trainer_presets() -> None:
    found = translate(ACE_LORA_TRAINER)
    assert found.description == "High quality"
    assert found.adapter == LoraConfig(rank=128, alpha=256, dropout=0.05, attention_type="self")
    assert found.train == TrainConfig(
        optimizer="prodigy", schedule="constant", learning_rate=5e-5, epochs=1000, save_every=625, warmup_steps=200,
        gradient_checkpointing="off", chunk_duration=60, cfg_ratio=0.15, loss_weighting="min_snr",
        early_stopping=10, timestep_preset="custom", timestep_mu=-0.8, timestep_sigma=0.8, preview_every=50,
        preview_caption="warm")


@pytest.mark.parametrize("values", [SIDE_STEP_0_8, SIDE_STEP_1_1, ACE_LORA_TRAINER])
def test_every_setting_is_used(values: dict[str, Any]) -> None:
    """Without the setting the result differs, or a note is missing."""
    whole = translate(values)
    silent = []
    for key in values:
        less = translate({name: value for name, value in values.items() if name != key} | {"seed": 42})
        if (less.adapter, less.train) == (whole.adapter, whole.train) and not any(key in n for n in whole.notes):
            silent.append((key, values[key]))
    # The rest states our default, or nothing.
    defaults = {**LoraConfig().to_json(), **TrainConfig().to_json(), "gradient_accumulation_steps": 4,
                "optimizer_type": "adamw", "scheduler_type": "cosine", "adapter_type": "lora", "max_steps": 0,
                "target_modules_str": "q_proj k_proj v_proj o_proj", "gradient_checkpointing": True,
                "name": "vram_12gb", "description": "Tight", "_description": "High quality", "weight_quantize": None}
    assert [(key, value) for key, value in silent if defaults[key] != value] == []


@pytest.mark.parametrize(("key", "reason"), [(key, reason) for reason, keys in foreign.NOT_HERE.items()
                                             for key in keys])
def test_unused_settings_have_reasons(key: str, reason: str) -> None:
    [note] = translate({key: 1}).notes
    assert note == f"{key}: not used, {reason}."


def test_tables_are_disjoint() -> None:
    tables = [foreign.TRAIN, foreign.PLACEMENT, *foreign.ADAPTERS.values(), foreign.CONVERTED, foreign.NAMES,
              *foreign.NOT_HERE.values()]
    names = [key for table in tables for key in table]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("values", "problem"), [
    ({"rank": 8, "lerning_rate": 1, "zeal": 2}, "neither .* lerning_rate, zeal is known"),
    ({"name": "empty"}, "no setting"),
    ({}, "no setting"),
    ({"rank": 8, "lora_r": 8}, "lora_r and another name"),
    ({"adapter_type": "oft"}, "'oft'"),
    ({"adapter_type": ["lora"]}, "lora, dora, lokr and loha"),
    ({"rank": "many"}, "rank must be a whole number, got 'many'"),
    ({"rank": [8]}, "rank must be a whole number"),
    ({"learning_rate": {"a": 1}}, "learning_rate must be a number"),
    ({"scheduler_type": "steps"}, "schedule must be .*'steps'"),
    ({"epochs": 1.5}, "epochs must be a whole number"),
    ({"epochs": True}, "epochs must be a whole number"),
    ({"save_every": -1}, "save_every must be a whole number"),
    ({"save_every": "often"}, "save_every must be a whole number.*'often'"),
    ({"crop_mode": "beats"}, "'beats'"),
    ({"gradient_checkpointing": "perhaps"}, "'perhaps'"),
    ({"gradient_checkpointing_ratio": []}, "its ratio a number"),
    ({"target_modules_str": "q_projj"}, "q_projj"),
])
def test_wrong_value_is_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        translate(values)


@pytest.mark.parametrize(("values", "expected", "note"), [
    ({"scheduler_type": "custom"}, TrainConfig(schedule="cosine"), "formulas are not run"),
    ({"loss_weighting": "flow_snr"}, TrainConfig(loss_weighting="none"), "changes nothing"),
    ({"shift": 3.0}, TrainConfig(), "every variant"),
    ({"num_inference_steps": 8}, TrainConfig(), "every variant"),
    ({"max_steps": 300, "epochs": 100}, TrainConfig(max_steps=300), "epochs: not used"),
    ({"crop_mode": "latent", "chunk_duration": 60, "max_latent_length": 750}, TrainConfig(chunk_duration=30), ""),
    ({"crop_mode": "full", "chunk_duration": 60}, TrainConfig(), ""),
    ({"gradient_checkpointing": True, "gradient_checkpointing_ratio": 0.0},
     TrainConfig(gradient_checkpointing="off"), ""),
    ({"gradient_checkpointing_ratio": "1.0"}, TrainConfig(gradient_checkpointing="on"), ""),
    ({"genre_ratio": 25}, TrainConfig(genre_ratio=0.25), ""),
    ({"timestep_mu": -0.4, "timestep_sigma": 1.0}, TrainConfig(), ""),
    ({"sample_enabled": False, "sample_every_n_epochs": 10}, TrainConfig(), ""),
    ({"sample_enabled": True, "save_every_n_epochs": 10}, TrainConfig(preview_every=25, save_every=25), "10 songs"),
    ({"early_stop_enabled": False, "early_stop_patience": 10}, TrainConfig(), ""),
])
def test_values_are_converted(values: dict[str, Any], expected: TrainConfig, note: str) -> None:
    found = translate(values)
    assert found.train == expected
    assert note in " ".join(found.notes)


@pytest.mark.parametrize(("values", "expected"), [
    ({"adapter_type": "dora", "rank": 16}, LoraConfig(rank=16, dora=True)),
    ({"adapter_type": "lora", "use_dora": True}, LoraConfig(dora=True)),
    ({"adapter_type": "loha", "loha_linear_dim": 8, "loha_linear_alpha": 16, "loha_use_scalar": True},
     LohaConfig(rank=8, alpha=16, dropout=0.0, use_scalar=True)),
    ({"adapter_type": "lokr", "lokr_dropout": 0.2}, LokrConfig(dropout=0.2)),
    ({"target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj"]},
     LoraConfig(target_modules=("q_proj",), target_mlp=True)),
    ({"train_mlp": True}, LoraConfig(target_mlp=True)),
])
def test_adapter_kinds(values: dict[str, Any], expected: LoraConfig) -> None:
    assert translate(values).adapter == expected
