"""ConfigureLoKR: an adapter of few parameters, out of Kronecker products."""

from __future__ import annotations

from comfy_api.latest import io

from ..sidestep_core.adapters.lokr import LokrConfig
from ..sidestep_core.estimate.result import Estimate
from . import placement
from .sockets import CATEGORY, AdapterConfigSocket


class ConfigureLoKR(io.ComfyNode):
    """factor, linear_dim, alpha, where -> LokrConfig"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepConfigureLoKR",
            display_name="Configure LoKR",
            category=CATEGORY,
            description="The size and place of a LoKR: small files, of which factor decides how much they hold.",
            search_aliases=["lokr", "lycoris", "kronecker", "side-step"],
            inputs=[
                io.Int.Input("linear_dim", default=LokrConfig.linear_dim, min=1, max=10_000, tooltip=(
                    "Rank of the large block. At half of the block's width or more the block is a full matrix; then "
                    "this and alpha have no effect. So it is at factor -1.")),
                io.Float.Input("alpha", default=LokrConfig.alpha, min=0.01, max=20_000.0, step=0.01, tooltip=(
                    "What is learned is scaled by alpha / linear_dim, unless the block is a full matrix. Twice "
                    "linear_dim is usual. Side-Step calls it linear_alpha.")),
                io.Int.Input("factor", default=LokrConfig.factor, min=-1, max=1024, tooltip=(
                    "The real knob of capacity. -1 splits a module of width 2048 evenly, into blocks of 32 and 64: "
                    "5,120 parameters (a LoRA of rank 64 has 262,144). 8 has a block 256 wide: 32,832 parameters at "
                    "linear_dim 64. 4 has one 512 wide: 65,552. 0 is no factor.")),
                placement.dropout_input(),
                *placement.inputs(),
                io.Boolean.Input("decompose_both", default=LokrConfig.decompose_both, optional=True, advanced=True,
                                 tooltip="Split the small block too, where it is large enough. Fewer parameters."),
                io.Boolean.Input("use_tucker", default=LokrConfig.use_tucker, optional=True, advanced=True, tooltip=(
                    "Only for convolutions, of which the adapted modules have none. It changes nothing and is here so "
                    "that settings of others can be read.")),
                io.Boolean.Input("use_scalar", default=LokrConfig.use_scalar, optional=True, advanced=True, tooltip=(
                    "Train one more number per module, which scales it.")),
                io.Boolean.Input("weight_decompose", default=LokrConfig.weight_decompose, optional=True, advanced=True,
                                 tooltip=("DoRA: train the length of each column of a weight apart from its direction. "
                                          "On the input side, as only that is exact in ComfyUI.")),
                *placement.selection_inputs(),
            ],
            outputs=[AdapterConfigSocket.Output(display_name="adapter_config")],
        )

    @classmethod
    def execute(cls, estimate: Estimate | None = None, **widgets: object) -> io.NodeOutput:
        return placement.configure(LokrConfig, widgets, estimate)
