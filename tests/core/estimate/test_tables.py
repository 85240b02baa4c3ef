"""Estimates as text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidestep_core.errors import ConfigError
from sidestep_core.estimate.result import Estimate, ModuleScore
from sidestep_core.estimate.tables import comparison, summary, table

Q, V, C, M = ("layers.2.self_attn.q_proj", "layers.10.self_attn.v_proj", "layers.0.cross_attn.q_proj",
              "layers.0.mlp.up_proj")


def estimate(**means: float) -> Estimate:
    names = {"q": Q, "v": V, "c": C, "m": M}
    return Estimate(score="gain", batches=24, agreement=0.957, settings={}, checkpoint="one", dataset="songs",
                    scores=tuple(ModuleScore(module=names[name], mean=mean, error=mean / 10, bins=(mean, 0.0, 2.0))
                                 for name, mean in means.items()))


def test_table_ranks_every_module() -> None:
    lines = table(estimate(q=1.0, v=4.0, c=2.0), {V, C}).splitlines()
    assert lines[0] == ("2 of 3 modules: 1 self-attention, 1 cross-attention. 24 samples, agreement of their halves "
                        "0.96.")
    assert [line.split() for line in lines[2:]] == [
        ["module", "score", "+/-", "texture", "structure"],
        ["*", V, "100.0", "%", "10.0", "%", "100.0", "%", "100.0", "%"],
        ["*", C, "50.0", "%", "5.0", "%", "50.0", "%", "100.0", "%"],
        [Q, "25.0", "%", "2.5", "%", "25.0", "%", "100.0", "%"],
    ]
    assert len({len(line) for line in lines[3:]}) == 1


def test_imported_list_has_fewer_columns() -> None:
    found = estimate(q=1.0, m=2.0)
    bare = replace(found, batches=0, scores=tuple(replace(score, bins=()) for score in found.scores))
    lines = table(bare, {M}).splitlines()
    assert lines[0] == "1 of 2 modules: 1 MLP."
    assert lines[2].split() == ["module", "score", "+/-"]


def test_zero_scores_have_no_percent() -> None:
    assert table(estimate(q=0.0, v=0.0), {Q}).splitlines()[3].split()[2] == "-"


def test_the_summary_of_no_modules() -> None:
    assert summary((), 1) == "0 of 1 modules."


def test_comparison_has_both_matrices() -> None:
    one, other = estimate(q=4.0, v=3.0, c=2.0, m=1.0), estimate(q=4.0, v=1.0, c=3.0, m=2.0)
    text = comparison({"A": one, "B": other}, {"A": {Q, V}, "B": {Q, C}})
    assert "(Jaccard)\n     A    B\nA    - 0.33\nB 0.33    -" in text
    # Ranks 4 3 2 1 against 4 1 3 2: 1 - 6 * 6 / 60.
    assert "(Spearman)\n     A    B\nA    - 0.40\nB 0.40    -" in text
    assert f"Chosen in all: 1\n  {Q}" in text
    assert f"Only in A: 1\n  {V}" in text
    assert f"Only in B: 1\n  {C}" in text
    assert "same dataset" in text


def test_comparison_names_differences() -> None:
    other = replace(estimate(q=1.0, v=2.0), score="fisher", checkpoint="two", dataset="others")
    text = comparison({"A": estimate(q=1.0, v=2.0), "B": other}, {"A": {V}, "B": {V}})
    assert "A has score gain, B fisher." in text
    assert "A and B were made with different checkpoints." in text
    assert "same dataset" not in text
    assert "Only in A: 0\n  none" in text


def test_layers_are_listed_by_number() -> None:
    found = estimate(q=1.0, v=2.0)
    assert comparison({"A": found, "B": found}, {"A": {V, Q}, "B": {V, Q}}).index(Q) < comparison(
        {"A": found, "B": found}, {"A": {V, Q}, "B": {V, Q}}).index(V)


def test_disjoint_estimates_are_refused() -> None:
    with pytest.raises(ConfigError, match="share 0 module"):
        comparison({"A": estimate(q=1.0, v=2.0), "B": estimate(c=1.0, m=2.0)}, {"A": {V}, "B": {M}})
