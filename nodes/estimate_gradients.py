"""EstimateGradients: where in the model the gradient of the songs lies, as a heat map, a table, and for choosing."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args, get_type_hints

from comfy_api.latest import io

from ..sidestep_core.dataset.manifest import Dataset
from ..sidestep_core.estimate.config import EstimateConfig
from ..sidestep_core.estimate.result import Estimate
from ..sidestep_core.estimate.selection import SelectionConfig, select
from ..sidestep_core.model.checkpoint import Checkpoint
from .host import folders, models
from .host.images import to_image
from .host.loaded_model import checkpoint_of
from .host.worker import run_stage
from .sockets import CATEGORY, DatasetSocket, EstimateSocket, checkpoint_input
from .widgets import words

TITLE = "Where this music needs capacity"


class EstimateGradients(io.ComfyNode):
    """Checkpoint, Dataset -> Estimate, heat map, table"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepEstimateGradients",
            display_name="Estimate Gradients",
            category=CATEGORY,
            description="Measures, without training, which modules of the model your songs would change most. Connect "
                        "the estimate to a Configure node to train just those.",
            search_aliases=["sensitivity", "heat map", "selective", "side-step"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                checkpoint_input(),
                DatasetSocket.Input("dataset"),
                io.Int.Input("top_k", default=SelectionConfig.top_k, min=1, max=512, tooltip=(
                    "How many of the best modules the picture and the table mark. What is trained is chosen on the "
                    "Configure node.")),
                *setting_inputs(),
            ],
            outputs=[EstimateSocket.Output(display_name="estimate"), io.Image.Output(display_name="heat_map"),
                     io.String.Output(display_name="table")],
        )

    @classmethod
    def execute(cls, checkpoint: object, dataset: Dataset, top_k: int, **settings: object) -> io.NodeOutput:
        from ..sidestep_core.estimate import heatmap, tables

        config = EstimateConfig.from_json(words.parsed(EstimateConfig, settings))
        found = measure(cls.hidden.unique_id, checkpoint_of(checkpoint), dataset, config)
        chosen = select(found, SelectionConfig(top_k=top_k), rank=1)
        picture = to_image(heatmap.draw(found, chosen, TITLE))
        return io.NodeOutput(found, picture, tables.table(found, chosen), ui={"sidestep": [{
            "modules": len(found.scores), "samples": found.batches, "agreement": found.agreement,
            "chosen": list(chosen), "stage": "estimate", "message": _summary(found),
        }]})


def setting_inputs() -> list[io.Input]:
    """One widget for each setting of an estimate, under the same name and with the same default."""
    usual, kinds = EstimateConfig, get_type_hints(EstimateConfig)
    return [
        io.Combo.Input("score", options=list(get_args(kinds["score"])), default=usual.score, tooltip=(
            "signal: how much of the gradient all samples agree on, the best guide to a training. gain: how much a "
            "LoRA there would lower the loss at first. gradient_norm: how strong the gradient is; ..._per_size: for "
            "the size of the matrix. fisher: its mean square.")),
        words.setting_input(usual, "estimate_batches", (
            "Number of samples to measure, at least 4; measuring ends earlier once the ranking is stable. automatic: "
            "ten of each song, 24 to 400 in all.")),
        words.setting_input(usual, "chunk_duration", (
            "Seconds of the random crop measured of each song, as in training.")),
        io.Boolean.Input("target_mlp", default=usual.target_mlp, optional=True, tooltip=(
            "Also measure the three matrices of every MLP.")),
        io.Combo.Input("attention_type", options=list(get_args(kinds["attention_type"])), default=usual.attention_type,
                       optional=True, advanced=True, tooltip="Which attentions are measured."),
        # The page would give a seed a widget that randomises it after each run, which would measure again each time.
        io.Int.Input("seed", default=usual.seed, min=0, max=2**53, control_after_generate=False, optional=True,
                     advanced=True, tooltip="The same seed, songs and settings give the same estimate."),
        io.String.Input("device", default=usual.device, optional=True, advanced=True, tooltip=(
            "auto, cpu, cuda, cuda:1, mps or xpu.")),
        io.Combo.Input("precision", options=list(get_args(kinds["precision"])), default=usual.precision, optional=True,
                       advanced=True, tooltip="auto: bf16 where the device has it, else fp32."),
    ]


def measure(node_id: str, checkpoint: Checkpoint, dataset: Dataset, config: EstimateConfig) -> Estimate:
    """The estimate, kept in ComfyUI's folder for them: a finished one is taken from there, a stopped one continued."""
    from ..sidestep_core.estimate.estimate import estimate

    on = replace(config, device=models.device(config.device))
    models.make_room()
    return run_stage(
        node_id, f"estimate-{dataset.folder.name}",
        lambda report: estimate(models.HostModels(), checkpoint, dataset, on, folders.kept_estimates_folder(dataset),
                                report=report),
        summary=_summary,
    )


def _summary(found: Estimate) -> str:
    """Sentence on the measured modules and the certainty of their ranking."""
    best = ", ".join(score.module.removeprefix("layers.") for score in found.ranked()[:3])
    return (f"{len(found.scores)} modules measured on {found.batches} samples; two halves of them agree by "
            f"{found.agreement:.2f}. Most to learn: {best}.")
