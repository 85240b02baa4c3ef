"""ConfigureLoHA: an adapter of high rank, out of the product of two LoRAs."""

from __future__ import annotations

from comfy_api.latest import io

from ..sidestep_core.adapters.loha import LohaConfig
from ..sidestep_core.estimate.result import Estimate
from . import placement
from .sockets import CATEGORY, AdapterConfigSocket


class ConfigureLoHA(io.ComfyNode):
    """rank, alpha, where -> LohaConfig"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepConfigureLoHA",
            display_name="Configure LoHA",
            category=CATEGORY,
            description="The size and place of a LoHA: two LoRAs multiplied number by number.",
            search_aliases=["loha", "lycoris", "hadamard", "side-step"],
            inputs=[
                io.Int.Input("rank", default=LohaConfig.rank, min=1, max=512, tooltip=(
                    "Of each of the two. Their product reaches rank x rank; it takes twice the parameters of a LoRA of "
                    "this rank.")),
                io.Float.Input("alpha", default=LohaConfig.alpha, min=0.01, max=2048.0, step=0.01, tooltip=(
                    "What is learned is scaled by alpha / rank. It is stored in the file: strength 1.0 is what was "
                    "trained.")),
                placement.dropout_input(),
                *placement.inputs(),
                io.Boolean.Input("use_scalar", default=LohaConfig.use_scalar, optional=True, advanced=True, tooltip=(
                    "Train one more number per module, which scales it.")),
                io.Boolean.Input("weight_decompose", default=LohaConfig.weight_decompose, optional=True, advanced=True,
                                 tooltip=("DoRA: train the length of each column of a weight apart from its direction. "
                                          "On the input side, as only that is exact in ComfyUI.")),
                *placement.selection_inputs(),
            ],
            outputs=[AdapterConfigSocket.Output(display_name="adapter_config")],
        )

    @classmethod
    def execute(cls, estimate: Estimate | None = None, **widgets: object) -> io.NodeOutput:
        return placement.configure(LohaConfig, widgets, estimate)
