"""Strengths of an adapter as a person types them: "0.7, 1.0"."""

from __future__ import annotations

import math
import re

from ..errors import ConfigError

STRONGEST = 10.0


def parse_strengths(text: str, name: str) -> tuple[float, ...]:
    """Read numbers separated by commas, semicolons or spaces.

    ConfigError calls the text `name` if it is empty, holds a word, 0 (which is the base), a number beyond 10, or one
    number twice.
    """
    strengths = tuple(_strength(part, name) for part in re.split(r"[,;\s]+", text) if part)
    if not strengths:
        raise ConfigError(f"{name} is empty. Enter one or more strengths, such as 0.7, 1.0.")
    twice = [strength for strength in strengths if strengths.count(strength) > 1]
    if twice:
        raise ConfigError(f"{name} has {twice[0]:g} twice. Enter each strength once.")
    return strengths


def _strength(part: str, name: str) -> float:
    try:
        strength = float(part)
    except ValueError:
        raise ConfigError(f"{name} has {part!r}, which is not a number. Enter strengths such as 0.7, 1.0.") from None
    if not math.isfinite(strength) or abs(strength) > STRONGEST:
        raise ConfigError(f"{name} has {part}; strengths are between -{STRONGEST:g} and {STRONGEST:g}.")
    if strength == 0:
        raise ConfigError(f"{name} has 0, which is the base without the adapter. It is always compared; leave out 0.")
    return strength
