"""JSON from anywhere, read strictly: nothing twice, every number finite, and no number too long to be one."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from .errors import ConfigError

MOST_DIGITS = 18

Json = Any
"""Whatever json.loads returns; every reader checks what it takes from it."""


def loads(text: str) -> Json:
    """The value that the text holds.

    ConfigError for a name that is set twice, a number that is not finite, and an integer of more than 18 digits;
    ValueError or RecursionError for what is no JSON.
    """
    return json.loads(text, object_pairs_hook=_once, parse_int=_integer, parse_float=_finite, parse_constant=_finite)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise ConfigError(f"{', '.join(twice)} is set twice. Leave one of them out.")
    return values


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ConfigError(f"{text[:MOST_DIGITS]}... has {len(text)} digits.")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ConfigError(f"{text} is not a finite number.")
    return value
