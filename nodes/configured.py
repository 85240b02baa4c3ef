"""What a Configure node or Load Preset hands to training: the adapter's configuration, and where its modules come from.

The configuration itself cannot say that an estimate chose its modules: it is a method, and goes into presets and
adapter files.  So the estimate travels beside it, for Train LoRA (ACE-Step) to say when it was made for other songs.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..sidestep_core.adapters.config import AdapterConfig
from ..sidestep_core.dataset.manifest import Dataset
from ..sidestep_core.estimate.result import Estimate
from ..sidestep_core.model.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Configured:
    """An adapter's configuration, and the estimate that chose its modules, if one did."""

    config: AdapterConfig
    estimate: Estimate | None = None

    def mismatches(self, checkpoint: Checkpoint, dataset: Dataset) -> tuple[str, ...]:
        """What the estimate was made with that is not this checkpoint or dataset, in words."""
        return () if self.estimate is None else self.estimate.mismatches(checkpoint.fingerprint, dataset.fingerprint)
