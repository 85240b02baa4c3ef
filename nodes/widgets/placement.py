"""Inputs for the place of an adapter, and conversion of widgets to its config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import get_args

from comfy_api.latest import io

from ...sidestep_core.adapters.config import PROJECTIONS, AdapterConfig
from ...sidestep_core.errors import ConfigError
from ...sidestep_core.estimate.result import Estimate
from ...sidestep_core.estimate.selection import Criterion, Granularity, SelectionConfig, apply_selection
from ...sidestep_core.model.checkpoint import Checkpoint
from ..sockets import Configured, EstimateSocket
from . import words

SELECTION = tuple(field.name for field in fields(SelectionConfig))
"""Names of the widgets of selection_inputs."""
UNKNOWN = "modules and parameters are counted on your model when a training with it begins."
EVERY = SelectionConfig(choose="percentile", percentile=100.0)
"""All modules that an estimate has and the adapter may sit on."""


def dropout_input() -> io.Input:
    return io.Float.Input("dropout", default=AdapterConfig.dropout, min=0.0, max=0.9, step=0.01, tooltip=(
        "Leaves out random inputs while training, against copying. More for few songs, less for many."))


def inputs() -> list[io.Input]:
    """Inputs for the place of the adapter."""
    return [
        io.Combo.Input("attention_type", options=["both", "self", "cross"], default=AdapterConfig.attention_type,
                       tooltip=(
            "self: sound, rhythm and structure. cross: how the music follows caption and lyrics. both: all. On the 2B "
            "model these are 96, 96 and 192 modules, on XL 128, 128 and 256.")),
        io.String.Input("target_modules", default=" ".join(PROJECTIONS), optional=True, advanced=True, tooltip=(
            "Which matrices of each attention are adapted, separated by spaces: q_proj k_proj v_proj o_proj.")),
        io.String.Input("self_target_modules", default="", optional=True, advanced=True, tooltip=(
            "Other matrices for self-attention only, such as q_proj v_proj. Empty: those of target_modules.")),
        io.String.Input("cross_target_modules", default="", optional=True, advanced=True, tooltip=(
            "Other matrices for cross-attention only. Empty: those of target_modules.")),
        io.Boolean.Input("target_mlp", default=AdapterConfig.target_mlp, optional=True, advanced=True, tooltip=(
            "Also adapt the three matrices of every MLP, 72 more modules on 2B and 96 on XL: more room to learn and to "
            "copy, a larger file, more memory.")),
        io.String.Input("module_ranks", default="", multiline=True, optional=True, advanced=True, tooltip=(
            "Another rank for single modules, one on each line: layers.0.*=16 or layers.23.cross_attn.q_proj=8. The "
            "last line that fits counts; rank 0 leaves the module out.")),
    ]


def selection_inputs() -> list[io.Input]:
    """Inputs for choosing the place by an estimate."""
    usual = SelectionConfig
    return [
        EstimateSocket.Input("estimate", optional=True, tooltip=(
            "From Estimate Gradients or Load Estimate. When connected it chooses, as the widgets for it say, among the "
            "modules that this node allows; switch target_mlp on to have the MLPs among them.")),
        io.Combo.Input("choose", options=list(get_args(Criterion)), default=usual.choose, optional=True, advanced=True,
                       tooltip=("With an estimate: the top_k best modules, the best percentile, or as many as fit "
                                "into million_parameters.")),
        io.Combo.Input("granularity", options=list(get_args(Granularity)), default=usual.granularity, optional=True,
                       advanced=True, tooltip=(
            "module: single matrices. layer: those of one attention or MLP together.")),
        io.Int.Input("top_k", default=usual.top_k, min=1, max=512, optional=True, advanced=True, tooltip=(
            "How many, where choose is top_k. 16 is what Side-Step took.")),
        io.Float.Input("percentile", default=usual.percentile, min=0.1, max=100.0, step=1.0, optional=True,
                       advanced=True, tooltip="Share of all modules in percent, where choose is percentile."),
        io.Float.Input("million_parameters", default=usual.million_parameters, min=0.01, max=1000.0, step=0.5,
                       optional=True, advanced=True, tooltip=(
            "What the adapter may have in all, where choose is parameters.")),
        io.Int.Input("minimum_per_category", default=usual.minimum_per_category, min=0, max=128, optional=True,
                     advanced=True, tooltip=(
            "At least so many of self-attention, of cross-attention and of MLP each.")),
        io.Boolean.Input("rank_by_score", default=usual.rank_by_score, optional=True, advanced=True, tooltip=(
            "More rank where the score is higher, with no more parameters in all.")),
        io.Int.Input("min_rank", default=usual.min_rank, min=1, max=usual.max_rank, optional=True, advanced=True,
                     tooltip="The lowest that rank_by_score gives."),
        io.Int.Input("max_rank", default=usual.max_rank, min=usual.min_rank, max=512, optional=True, advanced=True,
                     tooltip="The highest that rank_by_score gives."),
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
