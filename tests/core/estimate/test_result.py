"""Files of estimates: ours to the bit, those of other programs, and nothing else; and what two estimates share."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep_core import rng
from sidestep_core.errors import ConfigError
from sidestep_core.estimate.result import (
    IMPORTED,
    MOST_CHARACTERS,
    Estimate,
    ModuleScore,
    agreement,
    jaccard,
    read,
    spearman,
    write,
)
from tests.tolerance import FP64

Q, UP = "layers.3.self_attn.q_proj", "layers.0.mlp.up_proj"
ESTIMATE = Estimate(
    scores=(ModuleScore(module=Q, mean=1 / 3, error=1e-9, bins=(-0.1, 0.0, 2.5), shape=(128, 64)),
            ModuleScore(module=UP, mean=-2e-300, error=0.25, bins=(0.5, 0.25, 0.125), shape=(96, 64))),
    score="signal", checkpoint="c0ffee", dataset="50a9", batches=96, agreement=0.96, settings={"seed": 42},
)  # fmt: skip
LEGACY = [{"module": f"decoder.{Q}", "sensitivity": 0.5}, {"module": UP, "sensitivity": 2}]


def text(**changes: Any) -> str:
    """An estimate's file with some of its values changed."""
    return json.dumps(ESTIMATE.to_json() | changes)


def with_module(**changes: Any) -> str:
    """The same with values of its first module changed."""
    first, *others = ESTIMATE.to_json()["scores"]
    return text(scores=[first | changes, *others])


def test_a_file_gives_back_the_very_estimate(tmp_path: Path) -> None:
    path = tmp_path / "estimate.json"
    write(path, ESTIMATE)
    assert read(path.read_text(encoding="utf-8"), path.name) == ESTIMATE
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_byte_order_mark_does_no_harm() -> None:
    assert read("\ufeff" + text(), "file") == ESTIMATE


def test_the_file_is_what_the_versioned_format_says() -> None:
    """Raise FORMAT when this breaks: people have such files."""
    assert ESTIMATE.to_json() == {
        "format": 1, "score": "signal", "checkpoint": "c0ffee", "dataset": "50a9", "batches": 96, "agreement": 0.96,
        "settings": {"seed": 42}, "scores": (
            {"module": Q, "mean": 1 / 3, "error": 1e-9, "bins": (-0.1, 0.0, 2.5), "shape": (128, 64)},
            {"module": UP, "mean": -2e-300, "error": 0.25, "bins": (0.5, 0.25, 0.125), "shape": (96, 64)})}


@pytest.mark.parametrize(("content", "problem"), [
    ("", "not the JSON of an estimate"),
    ("{", "not the JSON of an estimate"),
    ("[" * 100_000, "not the JSON of an estimate"),
    ("null", "is no estimate"),
    ('"text"', "is no estimate"),
    ("{}", "is no estimate"),
    ("[]", "has no modules"),
    (text(format=2), "has format 2; this version reads 1"),
    (text(format=True), "has format True"),
    (text(format=None), "has format None"),
    (text(scores=[]), "has no modules"),
    (text(scores={}), "scores cannot be"),
    (text(scores=[None]), "a module cannot be None"),
    (text(more=1), "the settings cannot be"),
    (json.dumps({"format": 1}), "the settings cannot be"),
    (text(score=1), "score cannot be 1"),
    (text(checkpoint=None), "checkpoint cannot be None"),
    (text(dataset=[]), r"dataset cannot be \[\]"),
    (text(batches=-1), "batches cannot be -1"),
    (text(batches=1.5), "batches cannot be 1.5"),
    (text(batches=True), "batches cannot be True"),
    (text(agreement=2), "agreement cannot be 2"),
    (text(agreement="1"), "agreement cannot be 1"),
    (text(settings=[]), r"settings cannot be \[\]"),
    (text(agreement=math.nan), "NaN is not a finite number"),
    (with_module(mean=math.inf), "Infinity is not a finite number"),
    (with_module(mean="1"), f"mean of {Q} cannot be 1"),
    (with_module(mean=True), f"mean of {Q} cannot be True"),
    (with_module(error=None), f"error of {Q} cannot be None"),
    (with_module(bins=1), f"bins of {Q} cannot be 1"),
    (with_module(bins=[None]), f"bins of {Q} cannot be"),
    (with_module(shape=[1]), f"shape of {Q} cannot be"),
    (with_module(shape=[1.0, 2]), f"shape of {Q} cannot be"),
    (with_module(shape=[-1, 2]), f"shape of {Q} cannot be"),
    (with_module(module=1), "a module cannot be 1"),
    (with_module(module="*"), r"a module cannot be \*"),
    (with_module(module="layers.*.self_attn.q_proj"), "a module cannot be"),
    (with_module(module="../../escape"), "a module cannot be"),
    (with_module(module=UP), f"has {UP} twice"),
    (with_module(more=1), "a module cannot be"),
    ('{"format": 1, "format": 1}', "format is set twice"),
    (text(batches=10**40), "has 41 digits"),
    (" " * (MOST_CHARACTERS + 1), f"an estimate at most {MOST_CHARACTERS}"),
    (json.dumps([1]), "a module cannot be 1"),
    (json.dumps([{"module": 1, "score": 1}]), "a module cannot be"),
    (json.dumps([{"module": Q}]), f"score of {Q} cannot be None"),
    (json.dumps([{"module": Q, "score": "1"}]), f"score of {Q} cannot be 1"),
    (json.dumps([{"module": Q, "score": 1}, {"module": f"decoder.{Q}", "score": 2}]), f"has {Q} twice"),
    (json.dumps([{"module": "lyric_encoder.q_proj", "score": 1}]), "only such as 'lyric_encoder.q_proj'"),
])  # fmt: skip
def test_anything_else_is_refused_in_words(content: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read(content, "songs.json")


def test_a_list_of_side_step_is_read() -> None:
    found = read(json.dumps(LEGACY), "legacy.json")
    assert found == Estimate(scores=(ModuleScore(module=Q, mean=0.5), ModuleScore(module=UP, mean=2.0)),
                             score=IMPORTED)
    assert found.mismatches("any", "any") == ()


def test_a_list_of_ace_lora_trainer_is_read() -> None:
    entries = [{"module": Q, "score": 0.25, "raw_norm": 0.1}, {"module": UP, "score": 0.5, "raw_norm": 0.2}]
    assert read(json.dumps(entries), "list.json") == Estimate(
        scores=(ModuleScore(module=Q, mean=0.25), ModuleScore(module=UP, mean=0.5)), score=IMPORTED)


def test_a_list_of_whole_attentions_scores_all_their_projections() -> None:
    entries = [{"module": "decoder.layers.5.self_attn", "score": 3}, {"module": "layers.5.mlp", "score": 1}]
    assert {score.module: score.mean for score in read(json.dumps(entries), "list.json").scores} == {
        **{f"layers.5.self_attn.{name}_proj": 3.0 for name in "qkvo"},
        **{f"layers.5.mlp.{name}_proj": 1.0 for name in ("gate", "up", "down")}}


def test_modules_that_no_adapter_is_put_on_are_left_out_and_named(caplog: pytest.LogCaptureFixture) -> None:
    more = [*LEGACY, {"module": "time_embed.linear_1", "sensitivity": 9.0}]
    with caplog.at_level(logging.WARNING):
        assert read(json.dumps(more), "legacy.json") == read(json.dumps(LEGACY), "legacy.json")
    assert "1 module(s) on which no adapter is put, such as time_embed.linear_1" in caplog.text


def test_a_mismatch_is_told_by_name() -> None:
    assert ESTIMATE.mismatches("c0ffee", "50a9") == ()
    checkpoint, dataset = ESTIMATE.mismatches("other", "songs")
    assert "another checkpoint than this one" in checkpoint
    assert "another dataset than this one" in dataset
    assert ESTIMATE.mismatches("c0ffee", "songs") == (dataset,)


def test_ranked_is_by_score_and_equal_ones_by_name() -> None:
    even = replace(ESTIMATE, scores=tuple(ModuleScore(module=name, mean=mean) for name, mean in
                                          ((Q, 1.0), (UP, 1.0), ("layers.9.mlp.up_proj", 2.0))))
    assert [score.module for score in even.ranked()] == ["layers.9.mlp.up_proj", UP, Q]


def plain_spearman(first: list[float], second: list[float]) -> float:
    """Pearson's correlation of the ranks, of which equal values have the mean."""
    def ranks(values: list[float]) -> torch.Tensor:
        each = torch.tensor(values, dtype=torch.float64)
        return (each[:, None] > each).double().sum(1) + (each[:, None] == each).double().sum(1) / 2

    return float(torch.corrcoef(torch.stack((ranks(first), ranks(second))))[0, 1])


@pytest.mark.parametrize("values", [3, 1000])
@pytest.mark.parametrize("length", [2, 7, 192])
def test_spearman_is_the_correlation_of_the_ranks(length: int, values: int) -> None:
    """Among three values many are equal."""
    random = rng.generator("spearman", length, values)
    one, other = (torch.randint(values, (length,), generator=random) for _ in range(2))
    one[0], other[0] = values, values  # never all equal
    first, second = one.double().tolist(), (other + one / 2).double().tolist()
    assert spearman(first, second) == pytest.approx(plain_spearman(first, second), abs=FP64)
    assert spearman(first, first) == pytest.approx(1.0, abs=FP64)
    assert spearman(first, [-value for value in first]) == pytest.approx(-1.0, abs=FP64)


def test_spearman_sees_only_the_order() -> None:
    assert spearman([1.0, 2.0, 3.0, 4.0], [1.0, 10.0, 1e6, 1e300]) == 1.0
    assert spearman([1.0, 2.0, 3.0, 4.0], [1.0, 10.0, 1e300, 1e6]) == pytest.approx(0.8)


def test_without_any_order_there_is_no_rank_correlation() -> None:
    assert spearman([1.0, 1.0], [1.0, 2.0]) == 0.0
    assert spearman([], []) == 0.0


def test_jaccard_is_the_share_in_both() -> None:
    assert jaccard("abc", "bcd") == 0.5
    assert jaccard("ab", "ba") == 1.0
    assert jaccard("a", "b") == 0.0
    assert jaccard("", "") == 1.0


def test_estimates_agree_by_the_modules_that_both_have() -> None:
    more = replace(ESTIMATE, scores=(*reversed(ESTIMATE.scores), ModuleScore(module="layers.9.mlp.up_proj", mean=5.0)))
    assert agreement(ESTIMATE, more) == 1.0
    with pytest.raises(ConfigError, match="share 1 module"):
        agreement(ESTIMATE, replace(ESTIMATE, scores=ESTIMATE.scores[:1]))
