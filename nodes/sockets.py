"""The types that travel between our nodes: frozen handles of sidestep_core, never tensors."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "Side-Step"

CheckpointSocket = io.Custom("SIDESTEP_CHECKPOINT")
"""sidestep_core.checkpoint.Checkpoint"""
DatasetSocket = io.Custom("SIDESTEP_DATASET")
"""sidestep_core.dataset.Dataset"""
AdapterConfigSocket = io.Custom("SIDESTEP_ADAPTER_CONFIG")
"""sidestep_core.adapter_config.AdapterConfig"""
TrainConfigSocket = io.Custom("SIDESTEP_TRAIN_CONFIG")
"""sidestep_core.train_config.TrainConfig"""
AdapterSocket = io.Custom("SIDESTEP_ADAPTER")
"""sidestep_core.adapter.Adapter"""
