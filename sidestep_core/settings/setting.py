"""Setting as a person sees it: its meaning, and the range of a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """Tooltip of a setting, and the range of a number."""

    tooltip: str
    low: float = 0
    high: float = 1
    step: float = 1
    round: float | None = None


Settings = Mapping[str, Setting]
"""Name of a field of a config -> its meaning."""

MANY = 1_000_000
