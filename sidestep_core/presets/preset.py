"""Presets: an adapter's and a training's settings together, under a name, as a JSON file that people can share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..adapters.config import AdapterConfig
from ..adapters.file import facts_of
from ..adapters.lora import LoraConfig
from ..adapters.registry import config_from_json
from ..config import require_clean_text
from ..errors import ConfigError
from ..io import strict_json
from ..io.strict_json import shown
from ..training.config import TrainConfig
from . import foreign
from .text import change, check_known, read_lines

VERSION = 1
VERSION_KEY = "sidestep_preset"
MOST_BYTES = 1_000_000
FOLDER = Path(__file__).parents[2] / "presets"
BUILT_IN = ("recommended", "high_quality", "quick_test", "vram_24gb_plus", "vram_16gb", "vram_12gb", "vram_8gb")
"""Side-Step's seven, with the values of its 0.8 series."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything that is set before a training, but for where it runs and on what."""

    name: str
    description: str = ""
    adapter: AdapterConfig = LoraConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        require_clean_text(self.name, "The name of the preset")
        require_clean_text(self.description, "The description of the preset")

    def to_json(self) -> dict[str, Any]:
        """A dict that json.dumps accepts and `from_json` turns back into an equal preset."""
        return {VERSION_KEY: VERSION, "name": self.name, "description": self.description,
                "adapter": self.adapter.to_json(), "train": self.train.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preset:
        """Raises ConfigError naming every setting that there is not, and wrong values."""
        version = values.get(VERSION_KEY)
        if version != VERSION or isinstance(version, bool):
            raise ConfigError(f"This preset is of version {version!r}; this Side-Step reads version {VERSION}. "
                              "Update Side-Step, or save the preset again with the older one.")
        unknown = sorted(set(values) - {VERSION_KEY, "name", "description", "adapter", "train"})
        if unknown:
            raise ConfigError(f"A preset has no {', '.join(unknown)}. Settings belong under adapter or train.")
        name, description = values.get("name", ""), values.get("description", "")
        adapter, train = values.get("adapter", {}), values.get("train", {})
        if not (isinstance(name, str) and isinstance(description, str)):
            raise ConfigError(f"name and description of a preset must be text, got {shown(name)} and "
                              f"{shown(description)}.")
        if not (isinstance(adapter, dict) and isinstance(train, dict)):
            raise ConfigError(f"adapter and train of a preset must hold settings, got {shown(adapter)} and "
                              f"{shown(train)}.")
        return cls(name=name, description=description, adapter=config_from_json(adapter),
                   train=TrainConfig.from_json(train))

    def to_text(self) -> str:
        """The content of its file."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def changed(self, lines: str) -> Preset:
        """With other values of single settings: `name: value`, one on each line, of the adapter or the training."""
        values = read_lines(lines)
        check_known(values, (self.adapter, self.train))
        return replace(self, adapter=change(self.adapter, values), train=change(self.train, values))

    def anywhere(self) -> Preset:
        """Without the device, which is another on each machine."""
        return replace(self, train=replace(self.train, device=TrainConfig.device))


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A preset that was read, and what of a foreign one has no place here."""

    preset: Preset
    notes: tuple[str, ...] = ()


def read(source: Path | str) -> Imported:
    """The preset in a file (a path) or in a text: one of ours, of Side-Step or of ace-lora-trainer.

    ConfigError when it is no such preset, is larger than 1 MB, or has a setting twice, unknown or out of range.
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


def built_in(name: str) -> Preset:
    """The preset of this name of BUILT_IN."""
    if name not in BUILT_IN:
        raise ConfigError(f"There is no built-in preset {name!r}; there are {', '.join(BUILT_IN)}.")
    return read(FOLDER / f"{name}.json").preset


def of_adapter(path: Path) -> Preset:
    """The settings that an adapter was trained with, which are in its file.  ConfigError for one from elsewhere."""
    facts = facts_of(path)
    if not facts:
        raise ConfigError(f"{path.name} was not trained with this Side-Step, so its settings are not known. Connect "
                          "adapter_config or settings instead.")
    if not (isinstance(facts.get("adapter"), dict) and isinstance(facts.get("train"), dict)):
        raise ConfigError(f"The settings in {path.name} are not whole. Connect adapter_config or settings instead.")
    return Preset(name=path.stem, adapter=config_from_json(facts["adapter"]),
                  train=TrainConfig.from_json(facts["train"]))


def _content(source: Path | str) -> str | bytes:
    if isinstance(source, Path):
        return strict_json.read_bytes(source, most=MOST_BYTES)
    if len(source) > MOST_BYTES:
        raise ConfigError(f"A preset has at most {MOST_BYTES} bytes, this has {len(source)}. Is it the right one?")
    return source
