"""The types that travel between our nodes: frozen handles, never tensors."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "Side-Step"

CheckpointSocket = io.Custom("SIDESTEP_CHECKPOINT")
"""sidestep_core.model.checkpoint.Checkpoint"""
DatasetSocket = io.Custom("SIDESTEP_DATASET")
"""sidestep_core.dataset.manifest.Dataset"""
AdapterConfigSocket = io.Custom("SIDESTEP_ADAPTER_CONFIG")
"""nodes.configured.Configured: an AdapterConfig, and the estimate that chose its modules"""
TrainConfigSocket = io.Custom("SIDESTEP_TRAIN_CONFIG")
"""sidestep_core.training.config.TrainConfig"""
AdapterSocket = io.Custom("SIDESTEP_ADAPTER")
"""sidestep_core.adapters.file.Adapter"""
EstimateSocket = io.Custom("SIDESTEP_ESTIMATE")
"""sidestep_core.estimate.result.Estimate"""
SongsSocket = io.Custom("SIDESTEP_SONGS")
"""sidestep_core.songs.song.SongFolder"""
