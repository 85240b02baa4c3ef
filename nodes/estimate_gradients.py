"""EstimateGradients: where in the model the gradient of the songs lies, as a heat map, a table, and for choosing."""

from __future__ import annotations

from dataclasses import replace

from comfy_api.latest import io

from ..sidestep_core.dataset.manifest import Dataset
from ..sidestep_core.estimate.config import EstimateConfig
from ..sidestep_core.estimate.result import Estimate
from ..sidestep_core.estimate.selection import SelectionConfig, select
from ..sidestep_core.model.checkpoint import Checkpoint
from ..sidestep_core.settings.estimate import ESTIMATE
from .host import folders, models
from .host.images import to_image
from .host.loaded_model import checkpoint_of
from .host.worker import run_stage
from .sockets import CATEGORY, DatasetSocket, EstimateSocket, checkpoint_input
from .widgets import words
from .widgets.setting import setting_inputs

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
                *estimate_inputs(),
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


def estimate_inputs() -> list[io.Input]:
    """Make one widget for each setting of an estimate, under the same name and with the same default."""
    advanced = setting_inputs(EstimateConfig, ESTIMATE, "attention_type", "seed", "device", "precision", optional=True,
                              advanced=True)
    return [*setting_inputs(EstimateConfig, ESTIMATE, "score", "estimate_batches", "chunk_duration"),
            *setting_inputs(EstimateConfig, ESTIMATE, "target_mlp", optional=True), *advanced]


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
            f"{found.agreement:.2f}. Most to learn: {best}. {found.doubt}").strip()
