"""Checks the settings and packages of a training before anything is encoded for it, which takes long."""

from __future__ import annotations

from collections.abc import Mapping

from ...sidestep_core.training.config import TrainConfig
from ..routes import events
from ..widgets.training import OWN, values

KINDS = {"SideStepConfigureLoRA": "lora", "SideStepConfigureLoKR": "lokr", "SideStepConfigureLoHA": "loha"}
"""Node that configures an adapter -> its kind."""


def check(node_id: str) -> None:
    """Read the settings of the other nodes of the running workflow and import what they need.

    ConfigError for a wrong value, MissingDependency for a package.
    """
    from ...sidestep_core.adapters import registry
    from ...sidestep_core.training.optim import optimizers

    for node in events.running_prompt(node_id).values():
        inputs = node.get("inputs")
        settings: Mapping[str, object] = inputs if isinstance(inputs, Mapping) else {}
        kind = KINDS.get(str(node.get("class_type")))
        if kind is not None:
            registry.require(registry.config_from_json({"kind": kind}))
        if node.get("class_type") == "SideStepTrainingSettings":
            config = TrainConfig.from_json(values(_written(settings)))
            optimizers.require(config.optimizer)
        if node.get("class_type") == "SideStepTrainAdapter":
            own = {name: value for name, value in _written(settings).items() if name in OWN}
            TrainConfig.from_json(values(own))


def _written(settings: Mapping[str, object]) -> dict[str, object]:
    """Inputs that are not connected to another node."""
    return {name: value for name, value in settings.items() if not isinstance(value, list)}
