"""Put an adapter on a model for generating, and report how many of its modules matched."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ..sidestep_core.adapters.file import Adapter
from .host import models
from .host.reporting import warned
from .sockets import CATEGORY, AdapterSocket
from .widgets import words

log = logging.getLogger(__name__)


class ApplyAdapter(io.ComfyNode):
    """MODEL, Adapter, strength -> MODEL"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepApplyAdapter",
            display_name="Apply Adapter",
            category=CATEGORY,
            description="Applies a trained adapter to the model you generate with. The model itself stays as it is. "
                        "Users report that an adapter trained on base works on turbo and sft of its size, and keeps "
                        "turbo's distillation; one trained on turbo does less on base.",
            search_aliases=["apply lora", "lora loader", "side-step"],
            inputs=[
                io.Model.Input("model", tooltip="The model from ComfyUI's own loader."),
                AdapterSocket.Input("adapter", tooltip=(
                    "Fits every model of its size: trained on base, also turbo and sft, as users report. The reverse "
                    "is worse.")),
                io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.01, tooltip=(
                    "1.0 is exactly what was trained, 0 nothing, negative the opposite.")),
                words.alpha_input(),
            ],
            outputs=[io.Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model: object, adapter: Adapter, strength: float,
                alpha: str = words.FROM_THE_FILE) -> io.NodeOutput:
        notices: list[str] = []
        patched, matched, total = models.patch(model, adapter.path, strength, words.alpha(alpha), notices.append)
        log.info("%s: %d of %d modules matched, strength %.2f.", adapter.path.name, matched, total, strength)
        return io.NodeOutput(patched, ui={"sidestep": [
            {"matched": matched, "total": total, "strength": strength} | warned(notices)]})
