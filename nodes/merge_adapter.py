"""MergeAdapter: a copy of the model with adapters baked in, for programs that take none, or to train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from comfy_api.latest import io

from ..sidestep_core.adapters import merge
from ..sidestep_core.adapters.file import Adapter, content_fingerprint
from ..sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from ..sidestep_core.progress import Report
from .host import folders, patches
from .host.loaded_model import checkpoint_of
from .host.reporting import warned
from .host.worker import run_stage
from .sockets import CATEGORY, AdapterSocket, CheckpointSocket, checkpoint_input
from .widgets import words

_made: dict[str, Path] = {}
"""The file of each name that this process made, for noticing that it is gone."""


class MergeAdapter(io.ComfyNode):
    """Checkpoint, one to three Adapters -> Checkpoint"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepMergeAdapter",
            display_name="Merge Adapter",
            category=CATEGORY,
            description="Writes a copy of the model with up to three adapters baked in. The model itself stays as it "
                        "is, and no file is ever overwritten.",
            search_aliases=["merge lora", "bake lora", "save model", "side-step"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                checkpoint_input(),
                AdapterSocket.Input("adapter"),
                _strength("strength"),
                io.String.Input("model_name", default="my_model", tooltip=(
                    "Name of the new file in models/diffusion_models, or models/checkpoints for an all-in-one model. "
                    "turbo, base or sft is added where the name does not say it.")),
                AdapterSocket.Input("adapter_2", optional=True),
                _strength("strength_2", optional=True),
                AdapterSocket.Input("adapter_3", optional=True),
                _strength("strength_3", optional=True),
                words.alpha_input(),
            ],
            outputs=[CheckpointSocket.Output(display_name="checkpoint"), io.String.Output(display_name="model_file")],
        )

    @classmethod
    def execute(cls, checkpoint: object, adapter: Adapter, strength: float, model_name: str,
                adapter_2: Adapter | None = None, strength_2: float = 1.0, adapter_3: Adapter | None = None,
                strength_3: float = 1.0, alpha: str = words.FROM_THE_FILE) -> io.NodeOutput:
        checkpoint = checkpoint_of(checkpoint)
        given = ((adapter, strength), (adapter_2, strength_2), (adapter_3, strength_3))
        adapters = [(one.path, amount) for one, amount in given if one is not None]
        given_alpha = words.alpha(alpha)
        facts = _facts(checkpoint, adapters, given_alpha)
        target, done = merge.free_path(checkpoint, folders.merged_file(checkpoint, model_name), facts)
        result = f"{target.name} is in your model list."
        notices = run_stage(
            cls.hidden.unique_id, target.stem,
            lambda report: _merge(checkpoint, adapters, given_alpha, None if done else target, facts, report),
            summary=lambda _: result)
        _made[model_name] = target
        return io.NodeOutput(_open(target, checkpoint), target.name, ui={"sidestep": [
            {"model": str(target)} | warned(notices, result)]})

    @classmethod
    def fingerprint_inputs(cls, model_name: str, **_: object) -> float | str:
        """Runs once more when the file is gone."""
        return float("nan") if model_name in _made and not _made[model_name].is_file() else ""


def _strength(name: str, *, optional: bool = False) -> io.Input:
    return io.Float.Input(name, default=1.0, min=-10.0, max=10.0, step=0.01, optional=optional, tooltip=(
        "1.0 is exactly what was trained, 0 nothing, negative the opposite."))


def _facts(checkpoint: Checkpoint, adapters: Sequence[tuple[Path, float]], alpha: float) -> dict[str, object]:
    """Model and adapters of a merge, for the file's metadata."""
    return {"model": checkpoint.name, "checkpoint": checkpoint.fingerprint, "variant": checkpoint.variant,
            "alpha": alpha, "adapters": [{"file": path.name, "content": content_fingerprint(path), "strength": strength}
                                         for path, strength in adapters]}


@torch.no_grad()
def _merge(checkpoint: Checkpoint, adapters: Sequence[tuple[Path, float]], alpha: float, target: Path | None,
           facts: dict[str, object], report: Report) -> list[str]:
    """Write the merged model, unless it exists already (no target); return its notices."""
    weights = checkpoint.model_weights()
    patch, notices = patches.combine(adapters, alpha, {name: weights.shape(name) for name in weights.names})
    if merge.quantised(checkpoint):
        notices.append(f"{checkpoint.name} is quantised; the merged model is bf16, which is larger.")
    if target is not None:
        merge.merge(checkpoint, patch, target, facts, report=report)
    return notices


def _open(target: Path, source: Checkpoint) -> Checkpoint:
    """The merged model with the text encoder and VAE of the one it was made from."""
    if source.vae in source.model:
        return open_checkpoint(target, variant=source.variant)
    text = source.text_encoder
    return open_checkpoint(target, text_encoder=text[0] if len(text) == 1 else text[0].parent, vae=source.vae,
                           variant=source.variant)
