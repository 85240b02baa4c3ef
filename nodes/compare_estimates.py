"""CompareEstimates: which modules several estimates would choose alike, and which only one of them."""

from __future__ import annotations

from comfy_api.latest import io

from ..sidestep_core.estimate.result import Estimate
from ..sidestep_core.estimate.selection import SelectionConfig, select
from .host.images import to_image
from .sockets import CATEGORY, EstimateSocket


class CompareEstimates(io.ComfyNode):
    """two to four Estimates -> pictures in a row, table"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepCompareEstimates",
            display_name="Compare Estimates",
            category=CATEGORY,
            description="How far estimates agree: of two styles, or of two halves of one.",
            search_aliases=["sensitivity", "compare", "jaccard", "spearman", "side-step"],
            inputs=[
                EstimateSocket.Input("estimate_1"),
                EstimateSocket.Input("estimate_2"),
                EstimateSocket.Input("estimate_3", optional=True),
                EstimateSocket.Input("estimate_4", optional=True),
                io.Int.Input("top_k", default=SelectionConfig.top_k, min=1, max=512, tooltip=(
                    "How many of the best modules of each are compared.")),
            ],
            outputs=[io.Image.Output(display_name="heat_maps"), io.String.Output(display_name="table")],
        )

    @classmethod
    def execute(cls, top_k: int, **estimates: Estimate | None) -> io.NodeOutput:
        from ..sidestep_core.estimate import heatmap, tables

        given = {name.replace("estimate_", "Estimate "): found for name, found in sorted(estimates.items())
                 if found is not None}
        chosen = {title: select(found, SelectionConfig(top_k=top_k), rank=1) for title, found in given.items()}
        table = tables.comparison(given, chosen)
        return io.NodeOutput(to_image(heatmap.draw_side_by_side(given, chosen)), table)
