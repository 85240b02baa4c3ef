"""ConfigureLoRA: how large the adapter is and where it sits."""

from __future__ import annotations

from comfy_api.latest import io

from ..sidestep_core.config import PROJECTIONS, LoraConfig
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
            search_aliases=["lora", "rank", "side-step"],
            inputs=[
                io.Int.Input("rank", default=LoraConfig.rank, min=1, max=512, tooltip=(
                    "Capacity. 64 holds a style; 16 saves memory and copies less from few songs; 128 for large sets.")),
                io.Float.Input("alpha", default=LoraConfig.alpha, min=0.01, max=2048.0, step=0.01, tooltip=(
                    "What is learned is scaled by alpha / rank. Twice the rank is usual. It is stored in the file: "
                    "strength 1.0 is what was trained.")),
                io.Float.Input("dropout", default=LoraConfig.dropout, min=0.0, max=0.9, step=0.01, tooltip=(
                    "Leaves out random inputs while training, against copying. More for few songs, less for many.")),
                io.Combo.Input("attention", options=["both", "self", "cross"], default=LoraConfig.attention, tooltip=(
                    "self: sound, rhythm and structure. cross: how the music follows caption and lyrics. both: all.")),
                io.String.Input("projections", default=" ".join(PROJECTIONS), advanced=True, tooltip=(
                    "Which matrices of each attention are adapted, separated by spaces: q_proj k_proj v_proj o_proj.")),
            ],
            outputs=[AdapterConfigSocket.Output(display_name="adapter_config")],
        )

    @classmethod
    def execute(cls, rank: int, alpha: float, dropout: float, attention: str, projections: str) -> io.NodeOutput:
        names = tuple(projections.replace(",", " ").split())
        config = LoraConfig(rank=rank, alpha=alpha, dropout=dropout, attention=attention, projections=names)
        return io.NodeOutput(config)
