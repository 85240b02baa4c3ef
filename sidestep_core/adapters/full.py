"""Full changes: the delta of a weight as such, which files may hold and no training here makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from .algorithm import Algorithm, Parts, ScaleOf
from .delta import FullDelta, WeightDelta


class Full(Algorithm):
    """A delta in the shape of its weight."""

    kind = "full"
    file_names: ClassVar[Mapping[str, str]] = {"diff": "diff", "w_norm": "diff"}

    def parse(self, module: str, parts: Parts, scale_of: ScaleOf) -> WeightDelta:
        return FullDelta(diff=parts["diff"])
