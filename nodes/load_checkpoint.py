"""LoadACEStepCheckpoint: the model to train for, from the files that ComfyUI already has."""

from __future__ import annotations

from comfy_api.latest import io

from ..sidestep_core.errors import CheckpointError
from .host import folders
from .host.loaded_model import chosen, paths_of
from .host.wording import sentence
from .sockets import CATEGORY, CheckpointSocket


class LoadACEStepCheckpoint(io.ComfyNode):
    """model, text_encoder, vae, variant -> Checkpoint"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepLoadACEStepCheckpoint",
            display_name="Load ACE-Step Checkpoint",
            category=CATEGORY,
            description="Chooses the ACE-Step 1.5 model to train for. Reads only what it needs to know what it is.",
            search_aliases=["ace", "ace-step", "ace step", "music model", "side-step"],
            inputs=[
                io.Combo.Input("model", options=folders.model_choices(), tooltip=(
                    "The ACE-Step 1.5 model file, the one you generate with: a diffusion model, an all-in-one "
                    "checkpoint, or an official model folder. bf16, fp16, fp32, fp8 and int8 files work.")),
                io.Combo.Input("text_encoder", options=folders.part_choices("text_encoders"), tooltip=(
                    "The 0.6B Qwen text encoder. 'automatic' takes it from an all-in-one checkpoint, or the one file "
                    "with its usual name.")),
                io.Combo.Input("vae", options=folders.part_choices("vae"), tooltip=(
                    "The ACE-Step 1.5 VAE. 'automatic' takes it from an all-in-one checkpoint, or the one file with "
                    "its usual name.")),
                io.Combo.Input("variant", options=[folders.AUTOMATIC, "turbo", "base", "sft"], tooltip=(
                    "Which kind of model it is. Weights do not tell, so 'automatic' reads config.json or the file "
                    "name, and asks you where neither says. LoRAs trained on base or sft also work on turbo.")),
            ],
            outputs=[CheckpointSocket.Output(display_name="checkpoint")],
        )

    @classmethod
    def execute(cls, model: str, text_encoder: str, vae: str, variant: str) -> io.NodeOutput:
        checkpoint = chosen(model, text_encoder, vae, variant)
        return io.NodeOutput(checkpoint, ui={"sidestep": [{
            "name": checkpoint.name, "variant": checkpoint.variant, "size": checkpoint.size,
            "fingerprint": checkpoint.fingerprint,
        }]})

    @classmethod
    def validate_inputs(cls, model: str) -> bool | str:
        """Take names with the kind of folder before them too, as older workflows have them."""
        try:
            folders.model_path(model)
        except CheckpointError as error:
            return sentence(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, model: str, text_encoder: str, vae: str, variant: str) -> str:
        """Runs again when a file was replaced under the same name."""
        return " ".join(folders.content_stamp(path.parent if path.is_dir() else path)
                        for path in paths_of(model, text_encoder, vae) if path is not None)
