"""Asks for the packages of a training before anything is encoded for it, which takes long."""

from __future__ import annotations

from collections.abc import Mapping

from ..routes import events

KINDS = {"SideStepConfigureLoRA": "lora", "SideStepConfigureLoKR": "lokr", "SideStepConfigureLoHA": "loha"}
"""Node that configures an adapter -> its kind."""


def check(node_id: str) -> None:
    """Import what the other nodes of the running workflow will need.  Raises MissingDependency."""
    from ...sidestep_core.adapters import registry
    from ...sidestep_core.training import optimizers

    for node in events.running_prompt(node_id).values():
        inputs = node.get("inputs")
        settings: Mapping[str, object] = inputs if isinstance(inputs, Mapping) else {}
        kind = KINDS.get(str(node.get("class_type")))
        if kind is not None:
            dora = {"dora": True} if kind == "lora" and settings.get("dora") is True else {}
            registry.require(registry.config_from_json({"kind": kind, **dora}))
        if node.get("class_type") == "SideStepTrainAdapter" and "settings" not in settings:
            optimizers.require(str(settings.get("optimizer")))
