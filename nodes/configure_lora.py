"""ConfigureLoRA: how large the adapter is and where it sits."""

from __future__ import annotations

from comfy_api.latest import io

from ..sidestep_core.adapters.lora import LoraConfig
from ..sidestep_core.estimate.result import Estimate
from . import placement
from .sockets import CATEGORY, AdapterConfigSocket


class ConfigureLoRA(io.ComfyNode):
    """rank, alpha, dropout, where -> LoraConfig"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepConfigureLoRA",
            display_name="Configure LoRA",
            category=CATEGORY,
            description="The size and place of a LoRA. The defaults are a good start.",
            search_aliases=["lora", "rank", "dora", "rslora", "side-step"],
            inputs=[
                io.Int.Input("rank", default=LoraConfig.rank, min=1, max=512, tooltip=(
                    "Capacity. 64 holds a style; 16 saves memory and copies less from few songs; 128 for large sets.")),
                io.Float.Input("alpha", default=LoraConfig.alpha, min=0.01, max=2048.0, step=0.01, tooltip=(
                    "What is learned is scaled by alpha / rank. Twice the rank is usual. It is stored in the file: "
                    "strength 1.0 is what was trained.")),
                placement.dropout_input(),
                *placement.inputs(),
                io.Boolean.Input("rslora", default=LoraConfig.rslora, optional=True, advanced=True, tooltip=(
                    "Scale by alpha / sqrt(rank), so that large ranks learn as fast as small ones. With alpha 128 and "
                    "rank 64 that is 16 instead of 2: lower alpha or the learning rate with it.")),
                io.Boolean.Input("dora", default=LoraConfig.dora, optional=True, advanced=True, tooltip=(
                    "DoRA: train the length of each column of a weight apart from its direction. Slower and sometimes "
                    "better. On the input side, as only that is exact in ComfyUI.")),
                *placement.selection_inputs(),
            ],
            outputs=[AdapterConfigSocket.Output(display_name="adapter_config")],
        )

    @classmethod
    def execute(cls, estimate: Estimate | None = None, **widgets: object) -> io.NodeOutput:
        return placement.configure(LoraConfig, widgets, estimate)
