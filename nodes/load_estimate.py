"""LoadEstimate: an estimate from a file of the list, or from a text."""

from __future__ import annotations

from comfy_api.latest import io

from ..sidestep_core.estimate import result
from .host import estimate_files, folders
from .sockets import CATEGORY, EstimateSocket


class LoadEstimate(io.ComfyNode):
    """file or its JSON -> Estimate"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepLoadEstimate",
            display_name="Load Estimate",
            category=CATEGORY,
            description="An estimate of Estimate Gradients, or a list of another program.",
            search_aliases=["sensitivity", "import estimate", "module config", "side-step"],
            inputs=[
                io.Combo.Input("estimate_file", options=estimate_files.choices(), tooltip=(
                    "Files in models/sidestep/estimates. Those in folders were kept by Estimate Gradients, by dataset; "
                    "the others were saved under a name.")),
                io.String.Input("json", default="", multiline=True, optional=True, advanced=True, tooltip=(
                    "The text of an estimate, to be read instead of the choice above: one of Save Estimate, or a list "
                    "of Side-Step or ace-lora-trainer.")),
            ],
            outputs=[EstimateSocket.Output(display_name="estimate")],
        )

    @classmethod
    def execute(cls, estimate_file: str, json: str = "") -> io.NodeOutput:
        found = result.read(json, "json") if json.strip() else estimate_files.load(estimate_file)
        made = f"{found.score}, {found.batches} samples" if found.batches else found.score
        return io.NodeOutput(found, ui={"sidestep": [{
            "modules": len(found.scores), "message": f"{len(found.scores)} modules ({made})."}]})

    @classmethod
    def fingerprint_inputs(cls, estimate_file: str, json: str = "", **_: object) -> str:
        """Runs again when the file changed."""
        listed = not json.strip() and estimate_file != estimate_files.NONE
        return folders.content_stamp(estimate_files.path_of(estimate_file)) if listed else ""
