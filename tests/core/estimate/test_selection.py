"""Selection of modules and ranks; a training adapts these and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep_core.adapters import formats, registry
from sidestep_core.adapters.config import MLP_PROJECTIONS, PROJECTIONS, AdapterConfig
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.registry import capacity_of
from sidestep_core.adapters.targets import target_modules
from sidestep_core.errors import ConfigError
from sidestep_core.estimate.result import Estimate, ModuleScore
from sidestep_core.estimate.selection import CATEGORIES, SelectionConfig, apply_selection, category, select
from sidestep_core.io.tensors import read_tensors
from sidestep_core.model.checkpoint import Checkpoint
from tests.adapters import fresh
from tests.tiny import write_dataset
from tests.training import CONFIG, trained

PARTS = {"self_attn": PROJECTIONS, "cross_attn": PROJECTIONS, "mlp": MLP_PROJECTIONS}
NAMES = tuple(f"layers.{layer}.{part}.{projection}" for layer in range(2)
              for part, projections in PARTS.items() for projection in projections)
"""All modules of the tiny decoder, in its order."""
QUERIES = "layers.0.self_attn.q_proj"
EVERY = SelectionConfig(choose="percentile", percentile=100.0)
ADAPTERS: dict[str, AdapterConfig] = {
    "lora": LoraConfig(rank=8, alpha=8.0, dropout=0.0, target_mlp=True),
    "dora": LoraConfig(rank=8, alpha=8.0, dropout=0.0, target_mlp=True, dora=True),
    "lokr": LokrConfig(linear_dim=8, alpha=8.0, dropout=0.0, target_mlp=True, factor=2),
    "loha": LohaConfig(rank=8, alpha=8.0, dropout=0.0, target_mlp=True),
}
every_kind = pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)


def shape(module: str) -> tuple[int, int]:
    """Return the shape of the tiny decoder's weight."""
    return {"q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64), "o_proj": (64, 64), "gate_proj": (96, 64),
            "up_proj": (96, 64), "down_proj": (64, 96)}[module.rpartition(".")[2]]


def estimate(means: Sequence[float] = (), names: Sequence[str] = NAMES, *, shapes: bool = True) -> Estimate:
    """Build an estimate; by default later modules score higher."""
    scores = tuple(ModuleScore(module=name, mean=mean, shape=shape(name) if shapes else (0, 0))
                   for name, mean in zip(names, means or range(1, len(names) + 1), strict=True))
    return Estimate(scores=scores, score="signal", checkpoint="one" if shapes else "")


def size(module: str, rank: int) -> int:
    """Return the parameters of a LoRA."""
    return rank * sum(shape(module))


# Which modules


@pytest.mark.parametrize(("settings", "count"), [
    ({}, 16), ({"top_k": 1}, 1), ({"top_k": 5}, 5), ({"top_k": 500}, 22),
    ({"choose": "percentile"}, 12), ({"choose": "percentile", "percentile": 50.0}, 11),
    ({"choose": "percentile", "percentile": 0.1}, 1), ({"choose": "percentile", "percentile": 100.0}, 22),
])  # fmt: skip
def test_best_modules_are_selected(settings: dict[str, Any], count: int) -> None:
    found = select(estimate(), SelectionConfig(**settings), rank=8)
    assert list(found.items()) == [(name, 8) for name in NAMES[-count:]]


def test_parameter_budget_is_used_up() -> None:
    least = size(NAMES[-1], 8) + size(NAMES[-2], 8)
    for extra, count in ((0, 2), (-1, 1), (size(NAMES[-3], 8) - 1, 2), (size(NAMES[-3], 8), 3)):
        config = SelectionConfig(choose="parameters", million_parameters=(least + extra) / 1e6)
        assert list(select(estimate(), config, rank=8)) == list(NAMES[-count:])


def test_too_small_budget_is_refused() -> None:
    config = SelectionConfig(choose="parameters", million_parameters=(size(NAMES[-1], 8) - 1) / 1e6)
    with pytest.raises(ConfigError, match=r"million_parameters 0\.001279 is too few: the 1 .* have 0\.00128"):
        select(estimate(), config, rank=8)


def test_budget_needs_shapes() -> None:
    with pytest.raises(ConfigError, match="how large the modules are"):
        select(estimate(shapes=False), SelectionConfig(choose="parameters"), rank=8)
    assert len(select(estimate(shapes=False), SelectionConfig(), rank=8)) == 16


@pytest.mark.parametrize("choose", ["top_k", "percentile", "parameters"])
def test_every_category_has_its_minimum(choose: Any) -> None:
    means = [3.0 if ".mlp." in name else 2.0 if ".cross_attn." in name else 1.0 for name in NAMES]
    config = SelectionConfig(choose=choose, top_k=6, percentile=28.0, million_parameters=0.007)
    assert {category(name) for name in select(estimate(means), config, rank=8)} == {"mlp"}
    found = select(estimate(means), replace(config, minimum_per_category=2), rank=8)
    assert {name: [category(module) for module in found].count(name) for name in CATEGORIES} == {
        "self_attn": 2, "cross_attn": 2, "mlp": 2}


def test_minimum_per_category_wins() -> None:
    config = SelectionConfig(top_k=1, minimum_per_category=2)
    assert len(select(estimate(), config, rank=8)) == 6
    with pytest.raises(ConfigError, match="the 6 that must be chosen"):
        select(estimate(), replace(config, choose="parameters", million_parameters=0.001), rank=8)


def test_minimum_skips_missing_categories() -> None:
    names = [name for name in NAMES if ".mlp." not in name]
    found = select(estimate(names=names), SelectionConfig(top_k=2, minimum_per_category=1), rank=8)
    assert {category(module) for module in found} == {"self_attn", "cross_attn"}


def test_blocks_rank_by_mean_score() -> None:
    means = [1.0] * len(NAMES)
    means[NAMES.index("layers.0.mlp.up_proj")] = 9.0
    means[NAMES.index("layers.1.cross_attn.k_proj")] = 8.0
    means[NAMES.index("layers.1.cross_attn.v_proj")] = 8.0
    config = SelectionConfig(granularity="layer", top_k=2)
    assert set(select(estimate(means), config, rank=8)) == {
        name for name in NAMES if name.startswith(("layers.0.mlp", "layers.1.cross_attn"))}
    assert set(select(estimate(means), replace(config, top_k=1), rank=8)) == {
        name for name in NAMES if name.startswith("layers.1.cross_attn")}


@settings(max_examples=50, deadline=None)
@given(means=st.lists(st.floats(-1, 1e3), min_size=len(NAMES), max_size=len(NAMES)),
       budgets=st.tuples(st.floats(0.01, 0.05), st.floats(0.01, 0.05)),
       granularity=st.sampled_from(["module", "layer"]), minimum=st.integers(0, 1))
def test_larger_budget_only_adds_modules(means: list[float], budgets: tuple[float, float], granularity: Any,
                                         minimum: int) -> None:
    def chosen(million: float) -> dict[str, int]:
        config = SelectionConfig(choose="parameters", million_parameters=million, granularity=granularity,
                                 minimum_per_category=minimum)
        return select(estimate(means), config, rank=4)

    few, many = chosen(min(budgets)), chosen(max(budgets))
    assert few.items() <= many.items()
    for found, budget in ((few, min(budgets)), (many, max(budgets))):
        assert sum(size(module, rank) for module, rank in found.items()) <= budget * 1e6


# Ranks


@settings(max_examples=50, deadline=None)
@given(means=st.lists(st.floats(-1, 1e3) | st.sampled_from([0.0, 1e-12, 1e9]), min_size=len(NAMES),
                      max_size=len(NAMES)), rank=st.integers(4, 64), least=st.integers(1, 4))
def test_ranks_grow_within_limits(means: list[float], rank: int, least: int) -> None:
    config = replace(EVERY, rank_by_score=True, min_rank=least, max_rank=2 * rank)
    found = select(estimate(means), config, rank)
    assert set(found) == set(NAMES)
    assert all(least <= rank <= config.max_rank for rank in found.values())
    assert sum(size(*item) for item in found.items()) <= sum(size(name, rank) for name in NAMES)
    ordered = [found[name] for _, name in sorted(zip(means, NAMES, strict=True))]
    assert ordered == sorted(ordered)


def test_ranks_are_proportional_to_scores() -> None:
    means = [4.0 if name == QUERIES else 1.0 for name in NAMES]
    found = select(estimate(means), replace(EVERY, rank_by_score=True, min_rank=1), rank=16)
    one = found[NAMES[-1]]
    assert 4 * one <= found.pop(QUERIES) <= 4 * one + 3
    assert set(found.values()) == {one}
    assert one == 14  # 16 * 2816 rows and columns, of which one module of 128 has four shares


def test_equal_scores_have_equal_ranks() -> None:
    found = select(estimate([0.3] * len(NAMES)), replace(EVERY, rank_by_score=True), rank=16)
    assert set(found.values()) == {16}


def test_ranks_scale_without_shapes() -> None:
    found = select(estimate(shapes=False), replace(EVERY, rank_by_score=True, min_rank=1), rank=16)
    assert 0.9 * 16 * len(NAMES) <= sum(found.values()) <= 16 * len(NAMES)


def test_too_high_min_rank_is_refused() -> None:
    with pytest.raises(ConfigError, match="min_rank 9 for 22 modules is more than their ranks without .*, 8"):
        select(estimate(), replace(EVERY, rank_by_score=True, min_rank=9), rank=8)


@pytest.mark.parametrize(("values", "problem"), [
    ({"top_k": 0}, "top_k must be at least 1, got 0"),
    ({"percentile": 0.0}, "percentile must be above 0"),
    ({"percentile": 100.5}, "at most 100, got 100.5"),
    ({"million_parameters": 0.0}, "million_parameters must be above 0"),
    ({"million_parameters": float("inf")}, "million_parameters must be finite"),
    ({"minimum_per_category": -1}, "minimum_per_category must not be negative"),
    ({"min_rank": 0}, "min_rank must be at least 1"),
    ({"min_rank": 9, "max_rank": 8}, "min_rank 9 is above max_rank 8"),
    ({"choose": "all"}, "choose must be"),
])  # fmt: skip
def test_wrong_settings_are_refused(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        SelectionConfig(**values)


# On an adapter


@every_kind
def test_adapter_has_only_selected_modules(checkpoint: Checkpoint, adapter: AdapterConfig) -> None:
    config = apply_selection(adapter, estimate(), SelectionConfig(top_k=3))
    decoder = fresh(checkpoint)
    modules = target_modules(config, decoder.geometry.layers)
    live = registry.attach(decoder, config, modules, seed=0)
    assert modules == dict.fromkeys(NAMES[-3:], 8)
    holders = {name.split("_proj")[0] + "_proj" for name, parameter in decoder.named_parameters()
               if parameter.requires_grad}
    assert holders == set(NAMES[-3:])
    assert sum(parameter.numel() for parameter in live.parameters) == capacity_of(
        config, modules, {name: shape(name) for name in modules}).total


@every_kind
def test_saved_file_has_selected_ranks(checkpoint: Checkpoint, tmp_path: Path, adapter: AdapterConfig) -> None:
    dataset = write_dataset(tmp_path / "dataset", checkpoint, (20, 20))
    selection = SelectionConfig(top_k=3, rank_by_score=True, min_rank=2)
    config = apply_selection(adapter, estimate([float(4**index) for index in range(len(NAMES))]), selection)
    ranks = target_modules(config, 2)
    assert list(ranks) == list(NAMES[-3:])
    assert len(set(ranks.values())) == 3
    made = trained(checkpoint, dataset, tmp_path, config, replace(CONFIG, max_steps=1))
    assert set(formats.read(made.path).modules) == set(ranks)
    assert saved_ranks(made.path) == ranks


def saved_ranks(path: Path) -> dict[str, int]:
    """Read the ranks from the shapes of the file's matrices, of any kind."""
    first = re.compile(r"(?:base_model\.model\.|lycoris_)(layers.+_proj)\."
                       r"(?:lora_A\.weight|lora_down\.weight|hada_w1_b|lokr_w2_b)")
    names = {name.replace(".", "_"): name for name in NAMES}
    found = {match[1]: tensor.shape[0] for key, tensor in read_tensors(path).items()
             if (match := first.fullmatch(key))}
    return {names[module.replace(".", "_")]: rank for module, rank in found.items()}


def test_selection_respects_the_adapter() -> None:
    """Modules at rank 0 stay out, and other ranks of the config stay."""
    config = LoraConfig(rank=8, attention_type="self", module_ranks=("*.v_proj=0", "*.q_proj=5"))
    found = target_modules(apply_selection(config, estimate(), SelectionConfig()), 2)
    assert found == {name: 5 if name.endswith("q_proj") else 8 for name in NAMES
                     if ".self_attn." in name and not name.endswith("v_proj")}


def test_selection_changes_only_ranks() -> None:
    config = LoraConfig(rank=8, alpha=3.0, dropout=0.3, rslora=True)
    assert replace(apply_selection(config, estimate(), SelectionConfig()), module_ranks=()) == config


def test_disjoint_modules_are_refused() -> None:
    attentions = estimate(names=[name for name in NAMES if ".self_attn." in name])
    with pytest.raises(ConfigError, match="sits on none of the 8 estimated modules, such as layers"):
        apply_selection(LoraConfig(attention_type="cross"), attentions, SelectionConfig())


def test_budget_counts_the_kinds_parameters() -> None:
    """A LoHA has twice as many as a LoRA of its rank, so half of the modules fit."""
    selection = SelectionConfig(choose="parameters", million_parameters=4 * size(QUERIES, 8) / 1e6)
    queries = estimate(names=[name for name in NAMES if re.search("[qo]_proj", name)])
    lora, loha = (target_modules(apply_selection(ADAPTERS[kind], queries, selection), 2) for kind in ("lora", "loha"))
    assert (len(lora), len(loha)) == (4, 2)


def test_imported_list_may_lack_layers() -> None:
    """Patterns that fit layers above its highest one stay right."""
    config = LoraConfig(module_ranks=("layers.31.*=0",))
    found = apply_selection(config, estimate(shapes=False), SelectionConfig(top_k=1))
    assert found.module_ranks == ("*=0", "layers.1.cross_attn.o_proj=64")


def test_uncertain_scores_count_less() -> None:
    found = estimate_of({"layers.0.self_attn.q_proj": (2.0, 1.5), "layers.1.self_attn.q_proj": (1.0, 0.1)})
    assert list(select(found, SelectionConfig(top_k=1), rank=8)) == ["layers.1.self_attn.q_proj"]


def test_above_average_counts_what_stands_out() -> None:
    names = [f"layers.{layer}.self_attn.q_proj" for layer in range(8)]
    found = estimate_of({name: (10.0 if layer < 2 else 1.0, 0.5) for layer, name in enumerate(names)})
    assert list(select(found, SelectionConfig(choose="above_average"), rank=8)) == names[:2]
    unsure = estimate_of({name: (10.0 if layer < 2 else 1.0, 8.0 * (layer == 1)) for layer, name in enumerate(names)})
    assert list(select(unsure, SelectionConfig(choose="above_average"), rank=8)) == names[:1]


def estimate_of(scores: dict[str, tuple[float, float]]) -> Estimate:
    return Estimate(score="signal", scores=tuple(ModuleScore(module=name, mean=mean, error=error, shape=(8, 8))
                                                 for name, (mean, error) in scores.items()))


def test_unstable_ranking_is_doubted() -> None:
    found = replace(estimate_of({"layers.0.self_attn.q_proj": (2.0, 0.1)}), batches=40, agreement=0.7)
    assert "agree by 0.70" in found.doubt
    assert replace(found, agreement=0.96).doubt == replace(found, batches=0).doubt == ""
