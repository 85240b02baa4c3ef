"""SaveEstimate: an estimate under a name, to load it again, to compare it, or to share it."""

from __future__ import annotations

import json
from pathlib import Path

from comfy_api.latest import io

from ..sidestep_core.errors import ConfigError
from ..sidestep_core.estimate import result
from ..sidestep_core.estimate.result import Estimate
from .host import folders
from .sockets import CATEGORY, EstimateSocket

_made: dict[str, Path] = {}
"""The file of each name that this process wrote, for noticing that it is gone."""


class SaveEstimate(io.ComfyNode):
    """Estimate -> file, JSON"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStepSaveEstimate",
            display_name="Save Estimate",
            category=CATEGORY,
            description="Keeps an estimate under a name in models/sidestep/estimates. The file, or its text, can be "
                        "given to others.",
            search_aliases=["sensitivity", "export estimate", "side-step"],
            is_output_node=True,
            inputs=[
                EstimateSocket.Input("estimate"),
                io.String.Input("name", default="my_estimate", tooltip="Load Estimate lists it under this name."),
                io.Boolean.Input("overwrite", default=False, tooltip=(
                    "Replace an estimate of this name. Otherwise a name that is taken is an error.")),
            ],
            outputs=[io.String.Output(display_name="json")],
        )

    @classmethod
    def execute(cls, estimate: Estimate, name: str, overwrite: bool) -> io.NodeOutput:
        path = folders.estimate_file(name)
        if not _holds(path, estimate):
            if path.exists() and not overwrite:
                raise ConfigError(f"There is another estimate {name.strip()!r} already: {path}. Choose another name, "
                                  "or switch overwrite on.")
            result.write(path, estimate)
        _made[name] = path
        return io.NodeOutput(json.dumps(estimate.to_json()), ui={"sidestep": [
            {"file": str(path), "message": f"Saved as {path}"}]})

    @classmethod
    def fingerprint_inputs(cls, name: str, **_: object) -> float | str:
        """Runs once more when the file is gone."""
        return float("nan") if name in _made and not _made[name].is_file() else ""


def _holds(path: Path, estimate: Estimate) -> bool:
    """True if the file is this estimate already."""
    if not path.is_file():
        return False
    try:
        return result.read(path.read_text(encoding="utf-8", errors="replace"), path.name) == estimate
    except ConfigError:
        return False
