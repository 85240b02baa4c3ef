"""Widgets for the settings of a training, with their names and defaults.

Types, choices and defaults come from TrainConfig, tooltips and ranges from sidestep_core/settings/training.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from comfy_api.latest import io

from ...sidestep_core.presets.text import spelled
from ...sidestep_core.settings.training import TRAINING
from ...sidestep_core.training.config import TrainConfig
from . import words
from .setting import setting_input, setting_inputs

OWN = ("max_steps", "learning_rate", "chunk_duration", "seed", "preview_every")
"""Settings that Train LoRA (ACE-Step) has itself; Training Settings has the others."""
BASIC = ("epochs", "optimizer", "schedule", "warmup_steps", "batch_size", "gradient_accumulation", "timestep_mode",
         "cfg_ratio", "heldout_songs", "early_stopping", "publish", "save_every", "preview_caption", "preview_lyrics",
         "preview_seconds", "gradient_checkpointing")
"""Settings of Training Settings that are not folded away as advanced."""


def own_inputs() -> list[io.Input]:
    """Widgets of Train LoRA (ACE-Step) itself."""
    return setting_inputs(TrainConfig, TRAINING, *OWN)


def other_inputs() -> list[io.Input]:
    """Widgets of Training Settings, in the order of TrainConfig; optional, so that a prompt need not name them all."""
    return [setting_input(TrainConfig, TRAINING, field.name, optional=True, advanced=field.name not in BASIC or None)
            for field in fields(TrainConfig) if field.name not in OWN]


def values(widgets: Mapping[str, object]) -> dict[str, object]:
    """Convert what widgets hold to values of TrainConfig."""
    return words.parsed(TrainConfig, widgets)


def own_of(config: TrainConfig) -> dict[str, object]:
    """Settings of a config that Train LoRA (ACE-Step) has itself."""
    return {name: value for name, value in config.to_json().items() if name in OWN}


def shown(config: TrainConfig) -> dict[str, object]:
    """Convert a config to what the widgets hold."""
    return spelled(config)
