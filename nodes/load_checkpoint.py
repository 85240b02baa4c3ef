"""LoadACEStepCheckpoint: the model to train for, from the files that ComfyUI already has."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..sidestep_core.errors import CheckpointError
from ..sidestep_core.model.checkpoint import open_checkpoint
from .host import folders, models
from .host.loaded_model import TEXT_ENCODER_NAME, VAE_NAME
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
        model_path, text_path, vae_path = _paths(model, text_encoder, vae)
        checkpoint = open_checkpoint(model_path, text_encoder=text_path, vae=vae_path,
                                     variant=None if variant == folders.AUTOMATIC else variant)
        models.require_buildable(checkpoint)
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
                        for path in _paths(model, text_encoder, vae) if path is not None)


def _paths(model: str, text_encoder: str, vae: str) -> tuple[Path, Path | None, Path | None]:
    """The files behind the choices; None for a part that an all-in-one file or an official folder brings itself."""
    split = folders.is_split(model)
    text_wanted = split or text_encoder != folders.AUTOMATIC
    vae_wanted = split or vae != folders.AUTOMATIC
    return (folders.model_path(model),
            folders.part_path("text_encoders", text_encoder, TEXT_ENCODER_NAME) if text_wanted else None,
            folders.part_path("vae", vae, VAE_NAME) if vae_wanted else None)
