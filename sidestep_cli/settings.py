"""Configs of the core from flags: over a preset where one is named, else over the defaults."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.registry import configs
from sidestep_core.dataset.config import PreprocessConfig
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import ConfigError
from sidestep_core.estimate.config import EstimateConfig
from sidestep_core.estimate.selection import SelectionConfig
from sidestep_core.presets import preset as presets
from sidestep_core.presets.preset import Preset
from sidestep_core.training import batches
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.heldout import material
from sidestep_core.training.resolve import resolve

from . import flags, names


def given_preset(arguments: argparse.Namespace) -> Preset:
    """Read the preset that was named, or the defaults."""
    if arguments.preset is None:
        return Preset(name="")
    return read_preset(arguments.preset)


def read_preset(name: str) -> Preset:
    """Read a built-in preset, one of a person's own, or a file: a preset or an adapter.  ConfigError for others."""
    path = Path(name).expanduser()
    own = own_presets().get(name)
    if name in presets.BUILT_IN:
        return presets.load_built_in(name)
    if own is None and not path.is_file():
        known = ", ".join([*presets.BUILT_IN, *own_presets()])
        raise ConfigError(f"There is no preset {name!r}; there are {known}. A preset's file can be given too.")
    file = own or path
    return presets.from_adapter(file).portable() if file.suffix == ".safetensors" else presets.read(file).preset


def preset_folders() -> tuple[Path, Path]:
    """Folders of a person's presets: presets in the present one, and that of the account."""
    return Path("presets"), Path.home() / ".config" / "sidestep" / "presets"


def own_presets() -> dict[str, Path]:
    """Map the names of a person's presets to their files; those of the present folder come first."""
    folders = preset_folders()
    return {path.stem: path for folder in reversed(folders) if folder.is_dir() for path in sorted(folder.glob("*.json"))
            if path.stem not in presets.BUILT_IN}


def adapter(arguments: argparse.Namespace, base: AdapterConfig) -> AdapterConfig:
    """Make the adapter's config: the preset's kind, or the one that is named."""
    kind = vars(arguments).get("adapter_type", base.kind)
    start = base if kind == base.kind else configs()[kind]()
    values = flags.values(arguments, "adapter") | flags.values(arguments, kind)
    shared = flags.values(arguments, "lora")
    values |= {name: shared[name] for name in names.SHARED.get(kind, ()) if name in shared}
    return replace(start, **values)


def unused(arguments: argparse.Namespace, kind: str) -> Iterator[str]:
    """Yield a sentence for each flag that changes nothing."""
    for flag in dict.fromkeys(arguments.without_effect):
        yield f"{flag} changes nothing: {names.WITHOUT_EFFECT[flag]}."
    for other in configs():
        own = [name for name in flags.values(arguments, other) if name not in names.SHARED.get(kind, ())]
        if other != kind and own:
            yield f"{', '.join(own)} of a {other} is not used: the adapter is a {kind}."


def training(arguments: argparse.Namespace, base: TrainConfig, model: Any, dataset: Dataset) -> TrainConfig:
    """Make the settings of the training; flags that count epochs are turned into steps."""
    values = flags.values(arguments, "train")
    if values.get("epochs") and "max_steps" in values:
        raise ConfigError("--epochs and --max-steps both set the length. Give one of them.")
    if "max_steps" in values:
        values.setdefault("epochs", 0)
    if arguments.log_dir is not None:
        values["tensorboard"] = True
    config = replace(base, **values)
    every = {"save_every": vars(arguments).get("save_every"),
             "preview_every": vars(arguments).get("sample_every_n_epochs")}
    counted = {name: epochs for name, epochs in every.items() if epochs is not None and name not in values}
    if not counted:
        return config
    settings = resolve(config, model, dataset).config
    trained, _ = material.split(dataset.samples, settings)
    epoch = batches.draws_per_epoch(trained) / settings.samples_per_step
    return replace(config, **{name: math.ceil(epochs * epoch) for name, epochs in counted.items()})


def preprocessing(arguments: argparse.Namespace, trigger_word: str) -> PreprocessConfig:
    """Make the settings of the encoding; `trigger_word` is that of all songs, if they have one."""
    values = flags.values(arguments, "preprocess")
    return PreprocessConfig(**{"trigger_word": trigger_word, **values})


def estimation(arguments: argparse.Namespace, **others: Any) -> EstimateConfig:
    """Make the settings of an estimate."""
    return EstimateConfig(**{**others, **flags.values(arguments, "estimate")})


def selection(arguments: argparse.Namespace) -> SelectionConfig:
    """Make the rules of a choice of modules."""
    return SelectionConfig(**flags.values(arguments, "selection"))
