"""Selection of the modules to adapt, and of their ranks, from an estimate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..adapters.config import AdapterConfig
from ..adapters.registry import capacity_of
from ..adapters.targets import target_modules
from ..config import Config, require
from ..errors import ConfigError
from .result import Estimate, ModuleScore

Criterion = Literal["top_k", "percentile", "parameters", "above_average"]
Granularity = Literal["module", "layer"]
Size = Callable[[str, int], int]
"""(module, rank) -> trained parameters of an adapter of this rank on it."""

CATEGORIES = ("self_attn", "cross_attn", "mlp")
LAYERS_OF_XL = 32


@dataclass(frozen=True, kw_only=True)
class SelectionConfig(Config):
    """Rules that turn an estimate into modules and ranks."""

    choose: Criterion = "top_k"
    """By score less its standard error.  above_average: all that are above the mean score of all modules by that, as
    many as the songs need; the default is Side-Step's."""
    granularity: Granularity = "module"
    """layer: the projections of one attention or MLP are selected together."""
    top_k: int = 16
    """Number of modules (or of attentions and MLPs, for granularity layer) with the highest scores."""
    percentile: float = 55.0
    """Share of modules with the highest scores, in percent."""
    million_parameters: float = 10.0
    """Budget of trained parameters: modules are selected from the highest score down, as far as they fit."""
    minimum_per_category: int = 0
    """Fewest modules of self-attention, of cross-attention and of MLP each, if they were estimated."""
    rank_by_score: bool = False
    """Ranks in proportion to the scores, with at most the parameters of the uniform ranks."""
    min_rank: int = 4
    max_rank: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("top_k", self.top_k), ("min_rank", self.min_rank)):
            require(value >= 1, f"{name} must be at least 1, got {value}.")
        require(0 < self.percentile <= 100, f"percentile must be above 0 and at most 100, got {self.percentile}.")
        require(self.million_parameters > 0, f"million_parameters must be above 0, got {self.million_parameters}.")
        require(self.minimum_per_category >= 0,
                f"minimum_per_category must not be negative, got {self.minimum_per_category}.")
        require(self.min_rank <= self.max_rank, f"min_rank {self.min_rank} is above max_rank {self.max_rank}.")


def apply_selection(config: AdapterConfig, estimate: Estimate, selection: SelectionConfig) -> AdapterConfig:
    """Restrict an adapter to the selected ones among its modules; no other module is added.

    A selected module keeps its rank in the config, unless ranks go by score.  ConfigError as in `select`, and if the
    config and the estimate share no module.
    """
    ranks = target_modules(config, _layers(estimate))
    scores = tuple(score for score in estimate.scores if score.module in ranks)
    if not scores:
        raise ConfigError(f"The adapter sits on none of the {len(estimate.scores)} estimated modules, such as "
                          f"{estimate.scores[0].module}. Estimate with the same attention_type and target_mlp, or "
                          "change them on the adapter.")
    shapes = {score.module: score.shape for score in scores}

    def size(module: str, rank: int) -> int:
        return capacity_of(config, {module: rank}, {module: shapes[module]}).total

    return replace(config, module_ranks=module_ranks(_select(scores, selection, ranks, size)))


def select(estimate: Estimate, config: SelectionConfig, rank: int) -> dict[str, int]:
    """Select modules with their ranks for a LoRA, in the estimate's order; `rank` is the uniform one.

    ConfigError if a parameter budget is set and the estimate does not state the modules' shapes, if the required
    modules do not fit into it, and if min_rank alone exceeds the parameters of the uniform ranks.
    """
    shapes = {score.module: score.shape for score in estimate.scores}
    return _select(estimate.scores, config, dict.fromkeys(shapes, rank),
                   lambda module, rank: rank * sum(shapes[module]))


def module_ranks(ranks: Mapping[str, int]) -> tuple[str, ...]:
    """Return the ranks as `module_ranks` of an adapter's config: no module but these."""
    return ("*=0", *(f"{module}={rank}" for module, rank in ranks.items()))


def category(module: str) -> str:
    """Return self_attn, cross_attn or mlp; for other modules the first part of the name."""
    return next((name for name in CATEGORIES if f".{name}." in module), module.split(".")[0])


def _layers(estimate: Estimate) -> int:
    """Return the number of the decoder's layers; a list of another program may lack the upper ones."""
    named = 1 + max(int(score.module.split(".")[1]) for score in estimate.scores)
    return named if estimate.checkpoint else max(named, LAYERS_OF_XL)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Modules that are selected together: one, or the projections of one attention or MLP."""

    modules: tuple[ModuleScore, ...]

    @property
    def score(self) -> float:
        return sum(module.certain for module in self.modules) / len(self.modules)

    @property
    def category(self) -> str:
        return category(self.modules[0].module)


def _select(scores: Sequence[ModuleScore], config: SelectionConfig, ranks: Mapping[str, int],
            size: Size) -> dict[str, int]:
    """Select modules with their ranks; `ranks` are those of the adapter, before rank_by_score."""
    unknown = any(0 in score.shape for score in scores)
    if config.choose == "parameters" and unknown:
        raise ConfigError("This estimate does not say how large the modules are, so none can be chosen by their "
                          "number of parameters. Use top_k or percentile, or estimate the gradients again.")
    groups = sorted(_group(scores, config.granularity), key=lambda group: -group.score)
    chosen = _select_groups(groups, config, lambda group: sum(size(m.module, ranks[m.module]) for m in group.modules))
    modules = [module for group in chosen for module in group.modules]
    if config.rank_by_score:
        ranks = _ranks_by_score(modules, config, ranks, (lambda module, rank: rank) if unknown else size)
    names = {module.module for module in modules}
    return {score.module: ranks[score.module] for score in scores if score.module in names}


def _group(scores: Sequence[ModuleScore], granularity: Granularity) -> list[_Group]:
    if granularity == "module":
        return [_Group(modules=(score,)) for score in scores]
    groups: dict[str, list[ModuleScore]] = {}
    for score in scores:
        groups.setdefault(score.module.rpartition(".")[0], []).append(score)
    return [_Group(modules=tuple(group)) for group in groups.values()]


def _select_groups(groups: Sequence[_Group], config: SelectionConfig,
                   size: Callable[[_Group], int]) -> list[_Group]:
    """Take each category's minimum, then the rest from the best down, as far as the criterion allows."""
    by_category: dict[str, list[_Group]] = {}
    for group in groups:
        by_category.setdefault(group.category, []).append(group)
    average = sum(module.mean for group in groups for module in group.modules) / sum(
        len(group.modules) for group in groups)
    counts = {"top_k": config.top_k, "percentile": round(len(groups) * config.percentile / 100),
              "above_average": sum(group.score > average for group in groups)}
    first = [group for same in by_category.values() for group in same[:config.minimum_per_category]]
    ordered = first + [group for group in groups if group not in first]
    if config.choose != "parameters":
        return ordered[:max(counts[config.choose], len(first), 1)]
    # Ends at the first that does not fit: so a larger budget never drops a module that a smaller one selects.
    budget, total, fitting = config.million_parameters * 1e6, 0, 0
    for group in ordered:
        total += size(group)
        if total > budget:
            break
        fitting += 1
    needed = max(len(first), 1)
    if fitting < needed:
        least = sum(size(group) for group in ordered[:needed])
        raise ConfigError(f"million_parameters {config.million_parameters:g} is too few: the {needed} that must be "
                          f"chosen have {least / 1e6:.3g}. Raise it, or lower the rank or minimum_per_category.")
    return ordered[:fitting]


def _ranks_by_score(modules: Sequence[ModuleScore], config: SelectionConfig, ranks: Mapping[str, int],
                    size: Size) -> dict[str, int]:
    """Scale ranks with the scores, within min_rank and max_rank and the total parameters of the given ranks."""
    def total(found: Mapping[str, int]) -> int:
        return sum(size(module.module, found[module.module]) for module in modules)

    def scaled(factor: float) -> dict[str, int]:
        return {module.module: min(max(math.floor(max(module.mean, 0.0) * factor), config.min_rank), config.max_rank)
                for module in modules}

    budget, found = total(ranks), scaled(0.0)
    if total(found) > budget:
        raise ConfigError(f"min_rank {config.min_rank} for {len(modules)} modules is more than their ranks without "
                          f"rank_by_score, {', '.join(map(str, sorted({ranks[m.module] for m in modules})))}. Lower "
                          "min_rank or raise the rank.")
    low, high = 0.0, config.max_rank / max(min((m.mean for m in modules if m.mean > 0), default=1.0), 1e-200)
    for _ in range(200):
        middle = (low + high) / 2
        tried = scaled(middle)
        if total(tried) <= budget:
            low, found = middle, tried
        else:
            high = middle
    return found
