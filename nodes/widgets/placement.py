"""Inputs for the place of an adapter, and conversion of widgets to its config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from comfy_api.latest import io

from ...sidestep_core.adapters.config import AdapterConfig
from ...sidestep_core.errors import ConfigError
from ...sidestep_core.estimate.result import Estimate
from ...sidestep_core.estimate.selection import SelectionConfig, apply_selection
from ...sidestep_core.model.checkpoint import Checkpoint
from ...sidestep_core.settings.adapters import PLACEMENT
from ...sidestep_core.settings.estimate import SELECTION as SELECTION_TABLE
from ..sockets import Configured, EstimateSocket
from . import words
from .setting import setting_input, setting_inputs

SELECTION = tuple(field.name for field in fields(SelectionConfig))
"""Names of the widgets of selection_inputs."""
UNKNOWN = "modules and parameters are counted on your model when a training with it begins."
EVERY = SelectionConfig(choose="percentile", percentile=100.0)
"""All modules that an estimate has and the adapter may sit on."""


def inputs() -> list[io.Input]:
    """Inputs for the place of the adapter."""
    return [setting_input(AdapterConfig, PLACEMENT, "attention_type"),
            *setting_inputs(AdapterConfig, PLACEMENT, "target_modules", "self_target_modules", "cross_target_modules",
                            "target_mlp", "module_ranks", optional=True, advanced=True)]


def dropout_input() -> io.Input:
    return setting_input(AdapterConfig, PLACEMENT, "dropout")


def last_inputs() -> list[io.Input]:
    """Inputs that came later, and so stand last: saved workflows have widgets by position."""
    return [setting_input(AdapterConfig, PLACEMENT, "rank_dropout", optional=True, advanced=True)]


def selection_inputs() -> list[io.Input]:
    """Inputs for choosing the place by an estimate."""
    return [
        EstimateSocket.Input("estimate", optional=True, tooltip=(
            "From Estimate Gradients or Load Estimate. When connected it chooses, as the widgets for it say, among the "
            "modules that this node allows; switch target_mlp on to have the MLPs among them.")),
        *setting_inputs(SelectionConfig, SELECTION_TABLE, *SELECTION, optional=True, advanced=True),
    ]


def configure(kind: type[AdapterConfig], widgets: Mapping[str, object],
              estimate: Estimate | None = None) -> io.NodeOutput:
    """Make the config of these widgets on the modules that the estimate chooses, and its facts for the page."""
    config = config_of(kind, widgets)
    if estimate is None:
        return io.NodeOutput(Configured(config=config), ui={"sidestep": [facts(config)]})
    selection = SelectionConfig.from_json({name: widgets[name] for name in SELECTION if name in widgets})
    chosen = apply_selection(config, estimate, selection)
    allowed = apply_selection(config, estimate, EVERY)
    return io.NodeOutput(Configured(config=chosen, estimate=estimate), ui={"sidestep": [
        chosen_facts(chosen, estimate, len(allowed.module_ranks) - 1)]})


def config_of(kind: type[AdapterConfig], widgets: Mapping[str, object]) -> AdapterConfig:
    """Make the config of these widgets, before an estimate chooses among its modules."""
    values = {name: value for name, value in widgets.items() if name not in SELECTION}
    return kind(**words.parsed(kind, values))


def facts(config: AdapterConfig) -> dict[str, object]:
    """Kind, settings, and on each size of model how many modules and parameters that makes."""
    from ...sidestep_core.adapters.registry import SIZES, capacity

    found, unfit = {}, []
    for size, geometry in SIZES.items():
        try:
            found[size] = capacity(config, geometry)
        except ConfigError as error:
            # module_ranks may name layers that only the other size has.
            unfit.append(error)
    if not found:
        raise unfit[0]
    modules = {size: len(one.parameters) for size, one in found.items()}
    return {**config.to_json(), "modules": modules, "parameters": {size: one.total for size, one in found.items()},
            "message": f"{config.kind}: {UNKNOWN}"}


def trained_facts(config: AdapterConfig, checkpoint: Checkpoint) -> dict[str, object]:
    """Modules and parameters on the model that a training uses."""
    from ...sidestep_core.adapters.registry import capacity
    from ...sidestep_core.model.decoder import DecoderGeometry

    made = capacity(config, DecoderGeometry.from_weights(checkpoint.model_weights().under("decoder.")))
    count = len(made.parameters)
    counted = f"{count} modules and {made.total:,} parameters on {checkpoint.name}"
    return {"modules": {checkpoint.size: count}, "parameters": {checkpoint.size: made.total},
            "message": f"{config.kind}: {counted}.{_full(len(made.full))}"}


def chosen_facts(config: AdapterConfig, estimate: Estimate, allowed: int) -> dict[str, object]:
    """Settings, modules and parameters of an adapter on the modules that an estimate chose among `allowed`."""
    from ...sidestep_core.adapters.registry import capacity_of
    from ...sidestep_core.adapters.targets import target_modules
    from ...sidestep_core.estimate.heatmap import Grid
    from ...sidestep_core.estimate.tables import summary

    ranks = target_modules(config, Grid.of([estimate]).layers)
    message = f"{config.kind}: the estimate chose {summary(ranks, allowed)}"
    parameters = {}
    shapes = {score.module: score.shape for score in estimate.scores if score.module in ranks}
    if all(map(all, shapes.values())):
        made = capacity_of(config, ranks, shapes)
        parameters = {"the estimated model": made.total}
        message += f" {made.total:,} parameters.{_full(len(made.full))}"
    if len(set(ranks.values())) > 1:
        message += f" Ranks from {min(ranks.values())} to {max(ranks.values())}."
    if allowed < len(estimate.scores):
        message += f" This node leaves out {len(estimate.scores) - allowed} of the measured modules."
    return {**config.to_json(), "modules": {"the estimated model": len(ranks)}, "parameters": parameters,
            "ranks": dict(ranks), "message": message}


def _full(count: int) -> str:
    return f" {count} blocks are full matrices, on which linear_dim and alpha have no effect." if count else ""
