"""Base class of every config, and the choices that several of them share.

A config that exists is valid; it travels as JSON and comes back equal.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from .errors import ConfigError
from .io import strict_json
from .io.text import bad_character

TriggerPosition = Literal["prepend", "append", "replace"]
Normalise = Literal["none", "peak", "lufs"]
Conditioning = Literal["comfyui", "official"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]


def require(condition: bool, message: str) -> None:
    """ConfigError with this message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def require_clean_text(value: object, name: str) -> None:
    """ConfigError where the value is a text with characters that nobody types."""
    if isinstance(value, str) and (wrong := bad_character(value)):
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
            require_clean_text(value, field.name)

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
