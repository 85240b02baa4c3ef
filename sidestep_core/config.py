"""Base class of every config, and the types that several of them share.

A config that exists is valid; it travels as JSON and comes back equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

from .errors import ConfigError
from .io.record import Record, field_types, parse
from .io.strict_json import Json
from .io.text import bad_character

TriggerPosition = Literal["prepend", "append", "replace"]
Normalise = Literal["none", "peak", "lufs"]
Conditioning = Literal["comfyui", "official"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
BasePrecision = Literal["as_file", "bf16", "int8", "fp8", "nf4"]


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with this message unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def require_clean_text(value: object, name: str) -> None:
    """Raise ConfigError if the value is a text with a bad character."""
    if isinstance(value, str) and (wrong := bad_character(value)):
        raise ConfigError(f"{name} {wrong}. Type it again.")


@dataclass(frozen=True, kw_only=True)
class Config(Record):
    """Base of every config: types are checked on creation, unknown settings are named."""

    def __post_init__(self) -> None:
        for name, annotation in field_types(type(self)).items():
            value = getattr(self, name)
            require(not isinstance(value, float) or math.isfinite(value), f"{name} must be finite, got {value}.")
            parse(value, annotation, name)
            require_clean_text(value, name)

    @classmethod
    def from_json(cls, values: Json, where: str = "", *, allow_unknown: bool = False) -> Self:
        """Build from the settings of `to_json`; an omitted one has its default.  ConfigError names unknown ones."""
        known = field_types(cls).keys()
        unknown = sorted(values.keys() - known)
        if unknown and not allow_unknown:
            raise ConfigError(f"There is no setting {', '.join(unknown)} here. Remove it or correct its name.")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
                      if name in known})
