"""An estimate as the first part of a training: `auto_estimate` of Train LoRA (ACE-Step)."""

from __future__ import annotations

from ..sidestep_core.dataset.manifest import Dataset
from ..sidestep_core.errors import ConfigError
from ..sidestep_core.estimate.config import EstimateConfig
from ..sidestep_core.estimate.selection import SelectionConfig, apply_selection
from ..sidestep_core.model.checkpoint import Checkpoint
from ..sidestep_core.model.flow_matching import FRAMES_PER_SECOND
from ..sidestep_core.training.config import TrainConfig
from .estimate_gradients import measure
from .sockets import Configured


def chosen(node_id: str, checkpoint: Checkpoint, dataset: Dataset, configured: Configured, config: TrainConfig,
           top_k: int) -> Configured:
    """The adapter on the `top_k` modules, of those that it may sit on, which these songs would change most.

    Measured on what the training will see.  ConfigError when an estimate chose already.
    """
    if configured.estimate is not None:
        raise ConfigError("auto_estimate is on, but the estimate on the Configure node has chosen the modules already. "
                          "Switch auto_estimate off, or disconnect that estimate.")
    adapter = configured.config
    found = measure(node_id, checkpoint, dataset, EstimateConfig(
        attention_type=adapter.attention_type, target_mlp=adapter.target_mlp, seed=config.seed, device=config.device,
        chunk_duration=config.chunk_frames / FRAMES_PER_SECOND,
        precision="auto" if config.precision == "fp16" else config.precision))
    return Configured(config=apply_selection(adapter, found, SelectionConfig(top_k=top_k)), estimate=found)
