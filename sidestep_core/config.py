"""What every config shares, and the settings of preprocessing.

A config that exists is valid; it travels as JSON and comes back equal.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from . import strict_json
from .errors import ConfigError
from .legible import illegible

TriggerPosition = Literal["prepend", "append", "replace"]
Normalise = Literal["none", "peak", "lufs"]
Conditioning = Literal["comfyui", "official"]


def require(condition: bool, message: str) -> None:
    """ConfigError with this message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def require_legible(value: object, name: str) -> None:
    """ConfigError where the value is a text with characters that nobody types."""
    if isinstance(value, str) and (wrong := illegible(value)):
        raise ConfigError(f"{name} {wrong}. Type it again.")


def _fits(value: object, annotation: Any) -> bool:
    """Whether a JSON value may stand in a field of this type (an int may stand for a float, never a bool)."""
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    if get_origin(annotation) is types.UnionType:
        return any(_fits(value, option) for option in get_args(annotation))
    if get_origin(annotation) is tuple:
        return isinstance(value, tuple) and all(_fits(item, get_args(annotation)[0]) for item in value)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What the configs share: types are checked on creation, JSON goes in and out, unknown keys are named."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            require(not isinstance(value, float) or math.isfinite(value), f"{field.name} must be finite, got {value}.")
            if not _fits(value, hints[field.name]):
                expected = strict_json.kind_in_words(hints[field.name])
                raise ConfigError(f"{field.name} must be {expected}, got {value!r}.")
            require_legible(value, field.name)

    def to_json(self) -> dict[str, Any]:
        """A dict that json.dumps accepts and `from_json` turns back into an equal config."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Raises ConfigError naming every key this config does not have."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(f"There is no setting {', '.join(unknown)} here. Remove it or correct its name.")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig(Config):
    """How a folder of songs becomes a dataset."""

    trigger_word: str = ""
    """Trigger word put into every caption; a song's own tag (sidecar) takes its place."""
    trigger_position: TriggerPosition = "prepend"
    """Where the trigger word goes; `replace` makes it the whole caption."""
    max_seconds: float = 0.0
    """Only the first seconds of longer songs are used; 0 uses whole songs."""
    tile_seconds: float = 10.0
    """How much audio the VAE encodes at once; affects memory, never the result."""
    normalise: Normalise = "none"
    """none; peak: loudest sample at -1 dBFS; lufs: loudness at -14 LUFS, less where a true peak would pass -1 dBTP."""
    conditioning: Conditioning = "comfyui"
    """Whose generation the conditions are those of: ComfyUI's, or that of the official program and of diffusers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.max_seconds == 0 or self.max_seconds >= 1,
                 f"max_seconds must be 0 (whole songs) or at least 1, got {self.max_seconds}.")
        require(self.tile_seconds >= 1, f"tile_seconds must be at least 1, got {self.tile_seconds}.")
        require(self.trigger_position != "replace" or bool(self.trigger_word.strip()),
                 "trigger_position is 'replace' but trigger_word is empty, so every caption would be empty. Set one.")
