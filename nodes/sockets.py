"""Types that travel between our nodes: frozen handles, never tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from comfy_api.latest import io

from ..sidestep_core.adapters.config import AdapterConfig
from ..sidestep_core.dataset.manifest import Dataset
from ..sidestep_core.estimate.result import Estimate
from ..sidestep_core.model.checkpoint import Checkpoint
from ..sidestep_core.training.config import TrainConfig

CATEGORY = "Side-Step"

CheckpointSocket = io.Custom("SIDESTEP_CHECKPOINT")
"""sidestep_core.model.checkpoint.Checkpoint"""
DatasetSocket = io.Custom("SIDESTEP_DATASET")
"""sidestep_core.dataset.manifest.Dataset"""
AdapterConfigSocket = io.Custom("SIDESTEP_ADAPTER_CONFIG")
"""Configured"""
TrainConfigSocket = io.Custom("SIDESTEP_TRAIN_CONFIG")
"""GivenSettings"""
AdapterSocket = io.Custom("SIDESTEP_ADAPTER")
"""sidestep_core.adapters.file.Adapter"""
EstimateSocket = io.Custom("SIDESTEP_ESTIMATE")
"""sidestep_core.estimate.result.Estimate"""
SongsSocket = io.Custom("SIDESTEP_SONGS")
"""sidestep_core.songs.song.SongFolder"""


def checkpoint_input() -> io.Input:
    """Input for a Checkpoint, or a MODEL of ComfyUI's loaders; `host.loaded_model.checkpoint_of` makes one of both."""
    return io.MultiType.Input("checkpoint", [CheckpointSocket, io.Model], tooltip=(
        "From Load ACE-Step Checkpoint, or the model of ComfyUI's own loader, so that one file is chosen once."))


@dataclass(frozen=True, kw_only=True)
class Configured:
    """Configuration of an adapter, and the estimate that chose its modules, if one did.

    The configuration goes into presets and adapter files, so it cannot hold the estimate; training needs it to warn
    about an estimate of other songs.
    """

    config: AdapterConfig
    estimate: Estimate | None = None

    def mismatches(self, checkpoint: Checkpoint, dataset: Dataset) -> tuple[str, ...]:
        """Sentences about an estimate made with another checkpoint or dataset."""
        return () if self.estimate is None else self.estimate.mismatches(checkpoint.fingerprint, dataset.fingerprint)


@dataclass(frozen=True, kw_only=True)
class GivenSettings:
    """Settings of a training, complete from Load Preset, or from Training Settings all but those of Train LoRA."""

    config: TrainConfig
    complete: bool

    def completed(self, own: Mapping[str, object]) -> TrainConfig:
        """Add the settings of Train LoRA (ACE-Step) itself where these are not complete."""
        return self.config if self.complete else TrainConfig.from_json({**self.config.to_json(), **own})
