"""Text to paste into an issue: versions, device, system and settings of a training, without paths and names."""

from __future__ import annotations

import platform
import tomllib
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import comfy.model_management
from comfyui_version import __version__ as comfyui

from ...sidestep_core.adapters.config import AdapterConfig
from ...sidestep_core.config import Config
from ...sidestep_core.model.checkpoint import Checkpoint
from ...sidestep_core.training.config import TrainConfig

PACKAGES = ("torch", "peft", "lycoris-lora", "transformers", "safetensors")
PRIVATE = ("preview_caption", "preview_lyrics")
"""Settings that hold a person's own words."""


def issue_report(checkpoint: Checkpoint, adapter: AdapterConfig, config: TrainConfig) -> str:
    """Lines of `name: value`."""
    facts = {
        "Side-Step": _pack_version(), "ComfyUI": comfyui, "Python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "System": platform.platform(), "Device": _device(),
        "Model": f"{checkpoint.variant} {checkpoint.size}",
        "Adapter": " ".join([adapter.kind, *_changed(adapter)]),
        "Settings": " ".join(_changed(config)) or "defaults",
    }
    return "\n".join(f"{name}: {value}" for name, value in facts.items())


def _changed(config: Config) -> list[str]:
    """Settings that differ from their defaults."""
    values = config.to_json()
    return [f"{field.name}={values[field.name]}" for field in fields(config)
            if field.name not in PRIVATE and values[field.name] != _plain(field.default)]


def _plain(default: object) -> object:
    return list(default) if isinstance(default, tuple) else default


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _pack_version() -> str:
    project = Path(__file__).parents[2] / "pyproject.toml"
    return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]) if project.is_file() else "?"


def _device() -> str:
    device = comfy.model_management.get_torch_device()
    gigabytes = comfy.model_management.get_total_memory(device) / 2**30
    return f"{comfy.model_management.get_torch_device_name(device)}, {gigabytes:.0f} GB"
