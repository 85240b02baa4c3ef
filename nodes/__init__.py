"""Side-Step's ComfyUI nodes: each reads its widgets, calls one stage of sidestep_core, and returns a handle."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .analyze_songs import AnalyzeSongs
from .apply_adapter import ApplyAdapter
from .build_dataset import BuildDataset
from .caption_songs import CaptionSongs
from .compare_adapters import CompareAdapters
from .compare_estimates import CompareEstimates
from .configure_adapter import CONFIGURE_NODES
from .dataset_cache import DatasetCache
from .estimate_gradients import EstimateGradients
from .host import termination
from .host.reporting import reported
from .import_tensors import ImportTensors
from .load_adapter import LoadAdapter
from .load_checkpoint import LoadACEStepCheckpoint
from .load_estimate import LoadEstimate
from .load_preset import LoadPreset
from .merge_adapter import MergeAdapter
from .preprocess_audio import PreprocessAudioFolder
from .routes import (  # noqa: F401  (importing them registers the routes)
    comparisons,
    controls,
    events,
    plan,
    presets,
    runs,
    song_folders,
    songs,
)
from .save_estimate import SaveEstimate
from .save_preset import SavePreset
from .song_audio import SongAudio
from .split_songs import SplitSongs
from .train_adapter import TrainAdapter
from .training_settings import TrainingSettings

NODES: list[type[io.ComfyNode]] = [
    LoadACEStepCheckpoint,
    BuildDataset,
    AnalyzeSongs,
    SplitSongs,
    SongAudio,
    CaptionSongs,
    PreprocessAudioFolder,
    ImportTensors,
    DatasetCache,
    EstimateGradients,
    LoadEstimate,
    SaveEstimate,
    CompareEstimates,
    LoadPreset,
    *CONFIGURE_NODES,
    TrainingSettings,
    TrainAdapter,
    SavePreset,
    LoadAdapter,
    ApplyAdapter,
    CompareAdapters,
    MergeAdapter,
]
for _node in NODES:
    reported(_node)


class SideStepExtension(ComfyExtension):
    """Extension that ComfyUI loads."""

    async def on_load(self) -> None:
        """Called once, when ComfyUI starts."""
        termination.listen()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
