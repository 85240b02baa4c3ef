"""Times of steps that this ComfyUI has measured, in output/sidestep/step_times.json."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import torch

from ....sidestep_core.adapters.config import AdapterConfig
from ....sidestep_core.dataset.manifest import Dataset
from ....sidestep_core.model.checkpoint import Checkpoint
from ....sidestep_core.progress import Report
from ....sidestep_core.training.config import TrainConfig
from ....sidestep_core.training.planning import step_times
from .. import folders


def file() -> Path:
    return folders.runs_folder().parent / "step_times.json"


def key(checkpoint: Checkpoint, dataset: Dataset, adapter: AdapterConfig, config: TrainConfig,
        device: torch.device) -> str:
    """Key of the steps of a training."""
    seconds = dataset.seconds / len(dataset.samples)
    return step_times.shape(comfy.model_management.get_torch_device_name(device), checkpoint.size, adapter, config,
                            seconds)


def remembering(report: Report, shape: str) -> Report:
    """Pass reports on, and keep the times of steps of this shape."""
    return step_times.remembering(report, file(), shape)
