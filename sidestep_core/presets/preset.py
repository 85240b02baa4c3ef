"""Presets: adapter and training settings under a name, as a JSON file to share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..adapters.config import AdapterConfig
from ..adapters.file import facts_of
from ..adapters.lora import LoraConfig
from ..adapters.registry import config_from_json
from ..config import require_clean_text
from ..errors import ConfigError
from ..io import strict_json
from ..io.record import Record, field_types
from ..io.text import bad_character, single_line
from ..training.config import TrainConfig
from . import foreign
from .text import apply_changes, parse_lines, require_known

VERSION = 1
VERSION_KEY = "sidestep_preset"
MAX_BYTES = 1_000_000
FOLDER = Path(__file__).parent / "built_in"
SIDE_STEPS = ("recommended", "high_quality", "quick_test", "vram_24gb_plus", "vram_16gb", "vram_12gb", "vram_8gb")
"""Side-Step's seven, with the values of its 0.8 series."""
BUILT_IN = (*SIDE_STEPS, "mlp_low_rank")


@dataclass(frozen=True, kw_only=True)
class _PresetFile(Record):
    """Content of a preset's file."""

    sidestep_preset: int
    name: str = ""
    description: str = ""
    adapter: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Every setting of a training except the device, the model and the dataset."""

    name: str
    description: str = ""
    adapter: AdapterConfig = LoraConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        require_clean_text(self.name, "The name of the preset")
        require_clean_text(self.description, "The description of the preset")

    def to_json(self) -> dict[str, Any]:
        """Return a dict that json.dumps accepts and `from_json` turns back into an equal preset."""
        return {VERSION_KEY: VERSION, "name": self.name, "description": self.description,
                "adapter": self.adapter.to_json(), "train": self.train.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preset:
        """Build from the content of a file.  ConfigError names unknown settings and wrong values."""
        version = values.get(VERSION_KEY)
        if version != VERSION or isinstance(version, bool):
            raise ConfigError(f"This preset is of version {version!r}; this Side-Step reads version {VERSION}. "
                              "Update Side-Step, or save the preset again with the older one.")
        unknown = sorted(values.keys() - field_types(_PresetFile).keys())
        if unknown:
            raise ConfigError(f"A preset has no {', '.join(unknown)}. Settings belong under adapter or train.")
        file = _PresetFile.from_json(values)
        return cls(name=file.name, description=file.description, adapter=config_from_json(file.adapter),
                   train=TrainConfig.from_json(file.train))

    def to_text(self) -> str:
        """Return the content of its file."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def with_changes(self, lines: str) -> Preset:
        """Change single settings of the adapter or the training: `name: value`, one per line."""
        values = parse_lines(lines)
        require_known(values, (self.adapter, self.train))
        return replace(self, adapter=apply_changes(self.adapter, values), train=apply_changes(self.train, values))

    def portable(self) -> Preset:
        """Reset the devices, which differ between machines."""
        return replace(self, train=replace(self.train, device=TrainConfig.device, devices=TrainConfig.devices))


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A preset that was read, with notes on the settings of a foreign one that have no counterpart."""

    preset: Preset
    notes: tuple[str, ...] = ()


def read(source: Path | str) -> Imported:
    """Read the preset in a file (a path) or in a text: ours, of Side-Step or of ace-lora-trainer.

    ConfigError if it is not such a preset, is larger than 1 MB, or has a setting twice, unknown or out of range.
    """
    where = source.name if isinstance(source, Path) else "The text"
    content = _content(source)
    try:
        values = strict_json.as_object(strict_json.loads(content, "it"), "it")
    except strict_json.BadJson as error:
        raise ConfigError(f"{where} is not the JSON of a preset: {error}") from error
    try:
        if VERSION_KEY in values:
            return Imported(preset=Preset.from_json(values))
        found = foreign.translate(values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    name = found.name or (source.stem if isinstance(source, Path) else "")
    preset = Preset(name=name, description=found.description, adapter=found.adapter, train=found.train)
    return Imported(preset=preset, notes=found.notes)


def load_built_in(name: str) -> Preset:
    """Load the preset of this name in BUILT_IN."""
    if name not in BUILT_IN:
        raise ConfigError(f"There is no built-in preset {name!r}; there are {', '.join(BUILT_IN)}.")
    return read(FOLDER / f"{name}.json").preset


def from_adapter(path: Path) -> Preset:
    """Read the settings that an adapter was trained with from its file.  ConfigError for a foreign one."""
    facts = facts_of(path)
    if not facts:
        raise ConfigError(f"{path.name} was not trained with this Side-Step, so its settings are unknown. Choose a "
                          "preset or settings instead.")
    if not (isinstance(facts.get("adapter"), dict) and isinstance(facts.get("train"), dict)):
        raise ConfigError(f"The settings in {path.name} are incomplete. Choose a preset or settings instead.")
    return Preset(name=path.stem, description=_description(path, facts), adapter=config_from_json(facts["adapter"]),
                  train=TrainConfig.from_json(facts["train"]))


def _description(path: Path, facts: Mapping[str, Any]) -> str:
    """Sentence about the origin of settings, of the plain texts among the facts of an adapter."""
    known = {"steps": facts.get("steps"), "on": facts.get("checkpoint_name"), "trigger word": facts.get("trigger_word")}
    texts = {name: single_line(str(value))[:80] for name, value in known.items() if isinstance(value, (str, int))}
    clean = [f"{name} {text}" for name, text in texts.items() if text and not bad_character(text)]
    return f"Settings of {path.name}: {', '.join(clean)}." if clean else f"Settings of {path.name}."


def _content(source: Path | str) -> str | bytes:
    if isinstance(source, Path):
        return strict_json.read_bytes(source, max_bytes=MAX_BYTES)
    if len(source) > MAX_BYTES:
        raise ConfigError(f"A preset has at most {MAX_BYTES} bytes, this has {len(source)}. Is it the right one?")
    return source
