"""Which modules an estimate is worth adapting, and with how much rank each."""

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

Choose = Literal["top_k", "percentile", "parameters"]
Granularity = Literal["module", "layer"]
Size = Callable[[str, int], int]
"""(module, rank) -> numbers that an adapter of this rank trains on it."""

CATEGORIES = ("self_attn", "cross_attn", "mlp")
LAYERS_OF_XL = 32


@dataclass(frozen=True, kw_only=True)
class SelectionConfig(Config):
    """How an estimate becomes a list of modules and ranks."""

    choose: Choose = "top_k"
    granularity: Granularity = "module"
    """layer: the projections of one attention or MLP are chosen, or left out, together."""
    top_k: int = 16
    """Modules (or attentions and MLPs, for granularity layer) with the highest scores."""
    percentile: float = 55.0
    """Of 100, the share with the highest scores."""
    million_parameters: float = 10.0
    """That the adapter trains, at most: modules are chosen from the highest score down, as far as they fit."""
    minimum_per_category: int = 0
    """At least so many of self-attention, of cross-attention and of MLP each, where they were estimated."""
    rank_by_score: bool = False
    """Ranks in proportion to the scores, with no more parameters than the same modules have without it."""
    min_rank: int = 4
    max_rank: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("top_k", "min_rank"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}.")
        require(0 < self.percentile <= 100, f"percentile must be above 0 and at most 100, got {self.percentile}.")
        require(self.million_parameters > 0, f"million_parameters must be above 0, got {self.million_parameters}.")
        require(self.minimum_per_category >= 0,
                f"minimum_per_category must not be negative, got {self.minimum_per_category}.")
        require(self.min_rank <= self.max_rank, f"min_rank {self.min_rank} is above max_rank {self.max_rank}.")


def applied(config: AdapterConfig, estimate: Estimate, selection: SelectionConfig) -> AdapterConfig:
    """The same adapter on the modules that are chosen among those it would sit on; nothing that it leaves out comes in.

    A chosen module keeps the rank that the config gives it, unless ranks go by score.  ConfigError as in `select`, and
    where the config and the estimate share no module.
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

    return replace(config, module_ranks=module_ranks(_selected(scores, selection, ranks, size)))


def select(estimate: Estimate, config: SelectionConfig, rank: int) -> dict[str, int]:
    """The chosen modules with the rank of each for a LoRA, in the estimate's order; `rank` is the usual one.

    ConfigError when a number of parameters is asked for and the estimate does not know the modules' shapes, when what
    must be chosen does not fit into it, and when min_rank leaves nothing to give to higher scores.
    """
    shapes = {score.module: score.shape for score in estimate.scores}
    return _selected(estimate.scores, config, dict.fromkeys(shapes, rank),
                     lambda module, rank: rank * sum(shapes[module]))


def module_ranks(ranks: Mapping[str, int]) -> tuple[str, ...]:
    """The same as `module_ranks` of an adapter's config: nothing but these."""
    return ("*=0", *(f"{module}={rank}" for module, rank in ranks.items()))


def category(module: str) -> str:
    """self_attn, cross_attn, mlp, or the module's own first name where it is none of these."""
    return next((name for name in CATEGORIES if f".{name}." in module), module.split(".")[0])


def _layers(estimate: Estimate) -> int:
    """Of the decoder that was estimated; a list of another program may lack the upper ones."""
    named = 1 + max(int(score.module.split(".")[1]) for score in estimate.scores)
    return named if estimate.checkpoint else max(named, LAYERS_OF_XL)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """What is chosen or left out together: one module, or the projections of one attention or MLP."""

    modules: tuple[ModuleScore, ...]

    @property
    def score(self) -> float:
        return sum(module.mean for module in self.modules) / len(self.modules)

    @property
    def category(self) -> str:
        return category(self.modules[0].module)


def _selected(scores: Sequence[ModuleScore], config: SelectionConfig, ranks: Mapping[str, int],
              size: Size) -> dict[str, int]:
    """Modules and their ranks; `ranks` are those without more ado."""
    unknown = any(0 in score.shape for score in scores)
    if config.choose == "parameters" and unknown:
        raise ConfigError("This estimate does not say how large the modules are, so none can be chosen by their "
                          "number of parameters. Use top_k or percentile, or estimate the gradients again.")
    groups = sorted(_grouped(scores, config.granularity), key=lambda group: -group.score)
    chosen = _chosen(groups, config, lambda group: sum(size(m.module, ranks[m.module]) for m in group.modules))
    modules = [module for group in chosen for module in group.modules]
    if config.rank_by_score:
        ranks = _ranks_by_score(modules, config, ranks, (lambda module, rank: rank) if unknown else size)
    names = {module.module for module in modules}
    return {score.module: ranks[score.module] for score in scores if score.module in names}


def _grouped(scores: Sequence[ModuleScore], granularity: Granularity) -> list[_Group]:
    if granularity == "module":
        return [_Group(modules=(score,)) for score in scores]
    groups: dict[str, list[ModuleScore]] = {}
    for score in scores:
        groups.setdefault(score.module.rpartition(".")[0], []).append(score)
    return [_Group(modules=tuple(group)) for group in groups.values()]


def _chosen(groups: Sequence[_Group], config: SelectionConfig, size: Callable[[_Group], int]) -> list[_Group]:
    """From the best to the worst: first each category's minimum, then the rest as far as it goes."""
    by_category: dict[str, list[_Group]] = {}
    for group in groups:
        by_category.setdefault(group.category, []).append(group)
    first = [group for same in by_category.values() for group in same[:config.minimum_per_category]]
    ordered = first + [group for group in groups if group not in first]
    if config.choose != "parameters":
        count = config.top_k if config.choose == "top_k" else round(len(groups) * config.percentile / 100)
        return ordered[:max(count, len(first), 1)]
    # Not past one that does not fit: so a larger budget never drops what a smaller one chose.
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
    """rank ~ score, within min_rank and max_rank, with at most the parameters that the given ranks have together."""
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
