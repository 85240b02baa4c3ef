"""Settings of a training beyond those of Train LoRA (ACE-Step) itself."""

from __future__ import annotations

from comfy_api.latest import io

from ..sidestep_core.training.config import TrainConfig
from .sockets import CATEGORY, GivenSettings, TrainConfigSocket
from .widgets import training as training_widgets


class TrainingSettings(io.ComfyNode):
    """optimizer, noise, measuring, saving, previews, device -> GivenSettings"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepTrainingSettings",
            display_name="Training Settings (ACE-Step)",
            category=CATEGORY,
            description="Further settings of a training: optimizer, noise, held-out songs, checkpoints, previews and "
                        "device. Length, learning rate, crop, seed and preview_every are set on Train LoRA (ACE-Step).",
            search_aliases=["optimizer", "schedule", "early stopping", "gradient checkpointing", "advanced",
                            "train settings", "side-step"],
            inputs=training_widgets.other_inputs(),
            outputs=[TrainConfigSocket.Output(display_name="settings")],
        )

    @classmethod
    def execute(cls, **widgets: object) -> io.NodeOutput:
        config = TrainConfig.from_json(training_widgets.values(widgets))
        return io.NodeOutput(GivenSettings(config=config, complete=False))
