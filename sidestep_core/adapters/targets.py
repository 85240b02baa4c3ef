"""Target modules of an adapter in the decoder, each with its rank."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from ..errors import ConfigError
from .config import MLP_PROJECTIONS, PROJECTIONS, AdapterConfig

_ATTENTIONS = {"both": ("self_attn", "cross_attn"), "self": ("self_attn",), "cross": ("cross_attn",)}


def target_modules(config: AdapterConfig, layers: int) -> Mapping[str, int]:
    """Full module name -> rank, in decoder order, such as `layers.0.self_attn.q_proj`: 192 on 2B, 256 on XL by default.

    `module_ranks` changes ranks of chosen modules or leaves some out.  ConfigError when one of its patterns fits none,
    or nothing is left.
    """
    ranks = {module: config.base_rank for layer in range(layers) for module in _chosen(config, layer)}
    for entry in config.module_ranks:
        pattern, _, rank = entry.rpartition("=")
        fitting = [module for module in ranks if fnmatchcase(module, pattern)]
        if not fitting:
            raise ConfigError(_fits_nothing(entry, pattern, config, layers))
        ranks.update(dict.fromkeys(fitting, int(rank)))
    left = {module: rank for module, rank in ranks.items() if rank > 0}
    if not left:
        raise ConfigError(f"module_ranks {', '.join(config.module_ranks)} leaves out every module; nothing would be "
                          "trained. Give at least one a rank above 0.")
    return left


def _chosen(config: AdapterConfig, layer: int) -> list[str]:
    own = {"self_attn": config.self_target_modules, "cross_attn": config.cross_target_modules}
    chosen = [f"layers.{layer}.{attention}.{projection}"
              for attention in _ATTENTIONS[config.attention_type]
              for projection in PROJECTIONS if projection in (own[attention] or config.target_modules)]
    return chosen + [f"layers.{layer}.mlp.{projection}" for projection in MLP_PROJECTIONS if config.target_mlp]


def _fits_nothing(entry: str, pattern: str, config: AdapterConfig, layers: int) -> str:
    everything = (f"layers.{layer}.{part}.{projection}" for layer in range(layers)
                  for part, projections in (("self_attn", PROJECTIONS), ("cross_attn", PROJECTIONS),
                                            ("mlp", MLP_PROJECTIONS)) for projection in projections)
    if any(fnmatchcase(module, pattern) for module in everything):
        return (f"module_ranks has {entry!r}, which fits only modules that are not chosen: attention_type is "
                f"{config.attention_type!r}, target_modules {', '.join(config.target_modules)}, target_mlp "
                f"{config.target_mlp}. Choose them there; module_ranks only changes ranks.")
    return (f"module_ranks has {entry!r}, which fits no module of this decoder of {layers} layers. Names look like "
            "layers.0.self_attn.q_proj, layers.0.cross_attn.v_proj or layers.0.mlp.up_proj; * stands for anything.")
