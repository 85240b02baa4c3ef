"""What the nodes that configure an adapter share: the inputs for its place, and how widgets become a config."""

from __future__ import annotations

from collections.abc import Mapping

from comfy_api.latest import io

from ..sidestep_core.adapter_config import PROJECTIONS, AdapterConfig, LohaConfig, LokrConfig, LoraConfig, Placement
from ..sidestep_core.errors import ConfigError
from ..sidestep_core.setting_text import parse


def dropout_input() -> io.Input:
    return io.Float.Input("dropout", default=Placement.dropout, min=0.0, max=0.9, step=0.01, tooltip=(
        "Leaves out random inputs while training, against copying. More for few songs, less for many."))


def inputs() -> list[io.Input]:
    """Where the adapter sits."""
    return [
        io.Combo.Input("attention_type", options=["both", "self", "cross"], default=Placement.attention_type, tooltip=(
            "self: sound, rhythm and structure. cross: how the music follows caption and lyrics. both: all. On the 2B "
            "model these are 96, 96 and 192 modules, on XL 128, 128 and 256.")),
        io.String.Input("target_modules", default=" ".join(PROJECTIONS), optional=True, advanced=True, tooltip=(
            "Which matrices of each attention are adapted, separated by spaces: q_proj k_proj v_proj o_proj.")),
        io.String.Input("self_target_modules", default="", optional=True, advanced=True, tooltip=(
            "Other matrices for self-attention only, such as q_proj v_proj. Empty: those of target_modules.")),
        io.String.Input("cross_target_modules", default="", optional=True, advanced=True, tooltip=(
            "Other matrices for cross-attention only. Empty: those of target_modules.")),
        io.Boolean.Input("target_mlp", default=Placement.target_mlp, optional=True, advanced=True, tooltip=(
            "Also adapt the three matrices of every MLP, 72 more modules on 2B and 96 on XL: more room to learn and to "
            "copy, a larger file, more memory.")),
        io.String.Input("module_ranks", default="", multiline=True, optional=True, advanced=True, tooltip=(
            "Another rank for single modules, one on each line: layers.0.*=16 or layers.23.cross_attn.q_proj=8. The "
            "last line that fits counts; rank 0 leaves the module out.")),
    ]


def configure(kind: type[LoraConfig] | type[LokrConfig] | type[LohaConfig],
              widgets: Mapping[str, object]) -> io.NodeOutput:
    """The config of these widgets, and for the page what it adapts."""
    config = kind(**{name: parse(kind, name, value) if isinstance(value, str) else value
                     for name, value in widgets.items()})
    return io.NodeOutput(config, ui={"sidestep": [facts(config)]})


def facts(config: AdapterConfig) -> dict[str, object]:
    """Kind, settings, and on each size of model how many modules and parameters that makes."""
    from ..sidestep_core.kinds import SIZES, capacity

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
    told = ", ".join(f"{modules[size]} modules and {one.total:,} parameters on {size}" for size, one in found.items())
    full = max(len(one.full) for one in found.values())
    note = f" {full} blocks are full matrices, on which linear_dim and alpha have no effect." if full else ""
    return {**config.to_json(), "modules": modules, "parameters": {size: one.total for size, one in found.items()},
            "message": f"{config.kind}: {told}.{note}"}
