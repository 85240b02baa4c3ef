"""Asks for the packages of a training before anything is encoded for it, which takes long."""

from __future__ import annotations

from collections.abc import Mapping

from ..routes import events


def check(node_id: str) -> None:
    """Import what the other nodes of the running workflow will need.  Raises MissingDependency."""
    from ...sidestep_core.adapters import lora
    from ...sidestep_core.training import optimizers

    for node in events.running_prompt(node_id).values():
        inputs = node.get("inputs")
        settings: Mapping[str, object] = inputs if isinstance(inputs, Mapping) else {}
        if node.get("class_type") == "SideStepConfigureLoRA" and settings.get("dora") is not True:
            lora.require()
        if node.get("class_type") == "SideStepTrainAdapter" and "settings" not in settings:
            optimizers.require(str(settings.get("optimizer")))
