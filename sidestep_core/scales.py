"""How strong an adapter is meant to be: alpha and rank, from the file, from what lies beside it, or from the person.

The effect of a low-rank adapter is (alpha / rank) * B @ A.  Files of PEFT hold A and B only; alpha stands in
adapter_config.json beside them.  A program that does not look there applies most of them at half strength.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import AdapterError
from .storage import read_json

CONFIG_NAME = "adapter_config.json"
CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations of PEFT that also change the weights under the adapter; without those the file means nothing."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is said about a whole adapter outside of its tensors."""

    source: str
    """Where it says so."""
    alpha: float
    rank: int
    """0 where it does not say."""
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    rslora: bool = False

    def alpha_of(self, name: str) -> float:
        return float(_matching(self.alpha_pattern, name, self.alpha))

    def rank_of(self, name: str) -> int:
        return int(_matching(self.rank_pattern, name, self.rank))

    def scale(self, name: str, rank: int) -> float:
        return self.alpha_of(name) / (math.sqrt(rank) if self.rslora else rank)


def _matching(pattern: Mapping[str, float], name: str, default: float) -> float:
    """The value of the first pattern that is the end of the name, as PEFT has it."""
    return next((value for key, value in pattern.items() if re.fullmatch(rf"(.*\.)?({key})", name)), default)


def settings_file(path: Path) -> Path | None:
    """The adapter_config.json that belongs to an adapter file."""
    config = path.parent / CONFIG_NAME
    return config if config.is_file() else None


def read_settings(path: Path, metadata: Mapping[str, str]) -> Settings | None:
    """From adapter_config.json beside the file, else from the file's metadata.  AdapterError when that is damaged."""
    config = settings_file(path)
    if config is not None:
        try:
            return _peft(dict(read_json(config)), str(config))
        except (OSError, ValueError, TypeError, re.error) as error:
            raise AdapterError(f"{config} is damaged ({error}). Get it again, or move it away.") from error
    try:
        return _from_metadata(path.name, metadata)
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise AdapterError(f"The metadata of {path.name} is damaged ({error}). Get the file again.") from error


def _from_metadata(name: str, metadata: Mapping[str, str]) -> Settings | None:
    """What diffusers, LyCORIS trainers, and those in the manner of kohya write into the header."""
    if "lora_adapter_metadata" in metadata:
        values = json.loads(metadata["lora_adapter_metadata"])
        found = _peft({key.removeprefix("transformer."): value for key, value in values.items()}, name)
        if found is not None:
            return found
    for key in ("lokr_config", "loha_config", "lora_config"):
        if key in metadata:
            return _named(json.loads(metadata[key]), name)
    return _named(metadata, name)


def _named(values: Mapping[str, Any], source: str) -> Settings | None:
    """Alpha and rank under whichever of their names."""
    def first(*names: str) -> float:
        return next((number for name in names if (number := _number(values.get(name))) > 0), 0)

    alpha = first("ss_network_alpha", "lora_alpha", "network_alpha", "linear_alpha", "alpha")
    rank = int(first("ss_network_dim", "r", "rank", "network_dim", "linear_dim", "dim"))
    return Settings(source=source, alpha=alpha, rank=rank) if alpha > 0 else None


def _number(value: object) -> float:
    """0 for what is none: metadata holds words too, such as `Dynamic`."""
    try:
        return float(str(value))
    except ValueError:
        return 0


def _peft(config: Mapping[str, Any], source: str) -> Settings | None:
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_THE_BASE):
        raise AdapterError(f"{source} says init_lora_weights={start}: this adapter belongs to changed base weights. "
                           "Convert it to an ordinary LoRA with PEFT (path_initial_model_for_weight_conversion) first.")
    alpha = config.get("lora_alpha", config.get("alpha"))
    if alpha is None:
        return None
    for pattern in (*(config.get("alpha_pattern") or {}), *(config.get("rank_pattern") or {})):
        re.compile(pattern)
    return Settings(source=source, alpha=float(alpha), rank=int(config.get("r") or 0),
                    alpha_pattern=dict(config.get("alpha_pattern") or {}),
                    rank_pattern=dict(config.get("rank_pattern") or {}), rslora=bool(config.get("use_rslora")))


class Scales:
    """The true scale of each module of one file, by the first that says it: the file, its settings, the person."""

    def __init__(self, name: str, settings: Settings | None, given: float) -> None:
        self._name = name
        self._settings = settings
        self._given = given
        self.given_was_used = False

    def low_rank(self, module: str, alpha: float | None, rank: int, *, made_for_host: bool) -> float:
        """Of a module with a rank.  `alpha` is the file's own; AdapterError where nobody says it."""
        settings = self._settings
        says = settings is not None and settings.rank_of(module) in (0, rank)
        if settings is not None and says and (
                alpha is None or (settings.rslora and math.isclose(alpha, settings.alpha_of(module), rel_tol=1e-3))):
            return settings.scale(module, rank)
        if alpha is not None:
            return alpha / rank
        if self._given > 0:
            self.given_was_used = True
            return self._given / rank
        if made_for_host:
            # Names that only ComfyUI knows, and there a file without alpha is one of scale 1.
            return 1.0
        raise AdapterError(self._question(module, rank))

    def whole(self, module: str, alpha: float | None) -> float:
        """Of a Kronecker product of two whole matrices, which has no rank: 1, unless the settings say the rank that
        alpha is to be divided by (PEFT divides always, LyCORIS only for rsLoRA)."""
        settings = self._settings
        if settings is None or not settings.rank_of(module):
            return 1.0
        rank = settings.rank_of(module)
        if alpha is not None:
            return alpha / rank
        return settings.scale(module, rank) if settings.source.endswith(CONFIG_NAME) else 1.0

    def _question(self, module: str, rank: int) -> str:
        settings = self._settings
        if settings is not None:
            why = (f"{settings.source} is of another adapter (it says rank {settings.rank_of(module)}, and {module} "
                   f"has rank {rank})")
        else:
            why = f"there is no {CONFIG_NAME} beside it"
        return (f"{self._name} does not say its alpha, without which its strength is unknown, and {why}. Put the "
                f"{CONFIG_NAME} of its training into the same folder. ApplyAdapter and MergeAdapter take an alpha too "
                f"(often twice the rank: {2 * rank} for this one).")
