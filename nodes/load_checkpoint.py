"""LoadACEStepCheckpoint: the model to train for, from the files that ComfyUI already has."""

from __future__ import annotations

from comfy_api.latest import io

from ..sidestep_core.checkpoint import open_checkpoint
from . import folders
from .sockets import CATEGORY, CheckpointSocket

TEXT_ENCODER_NAME = r"qwen.*0\.6b"
VAE_NAME = r"ace.*1\.5.*vae"


class LoadACEStepCheckpoint(io.ComfyNode):
    """model, text_encoder, vae, variant -> Checkpoint"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepLoadACEStepCheckpoint",
            display_name="Load ACE-Step Checkpoint",
            category=CATEGORY,
            description="Chooses the ACE-Step 1.5 model to train for. Reads only what it needs to know what it is.",
            search_aliases=["ace step", "lora training", "side-step"],
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
        path = folders.model_path(model)
        # An all-in-one checkpoint and an official folder bring their own parts; only split files need to be matched.
        split = model.startswith("diffusion_models/")
        chosen_text = text_encoder != folders.AUTOMATIC
        chosen_vae = vae != folders.AUTOMATIC
        checkpoint = open_checkpoint(
            path,
            text_encoder=(folders.part_path("text_encoders", text_encoder, TEXT_ENCODER_NAME)
                          if split or chosen_text else None),
            vae=folders.part_path("vae", vae, VAE_NAME) if split or chosen_vae else None,
            variant=None if variant == folders.AUTOMATIC else variant,
        )
        return io.NodeOutput(checkpoint, ui={"sidestep": [{
            "name": checkpoint.name, "variant": checkpoint.variant, "size": checkpoint.size,
            "fingerprint": checkpoint.fingerprint,
        }]})

    @classmethod
    def fingerprint_inputs(cls, model: str, text_encoder: str, vae: str, variant: str) -> str:
        """Runs again when the file was replaced under the same name."""
        path = folders.model_path(model)
        return f"{path.stat().st_mtime_ns}"
