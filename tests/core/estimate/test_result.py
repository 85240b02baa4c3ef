"""Files of estimates: ours bit for bit, lists of other programs, and nothing else."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidestep_core.errors import ConfigError
from sidestep_core.estimate.result import (
    IMPORTED,
    MAX_CHARACTERS,
    Estimate,
    ModuleScore,
    read,
    write,
)

Q, UP = "layers.3.self_attn.q_proj", "layers.0.mlp.up_proj"
ESTIMATE = Estimate(
    scores=(ModuleScore(module=Q, mean=1 / 3, error=1e-9, bins=(-0.1, 0.0, 2.5), shape=(128, 64)),
            ModuleScore(module=UP, mean=-2e-300, error=0.25, bins=(0.5, 0.25, 0.125), shape=(96, 64))),
    score="signal", checkpoint="c0ffee", dataset="50a9", batches=96, agreement=0.96, settings={"seed": 42},
)  # fmt: skip
LEGACY = [{"module": f"decoder.{Q}", "sensitivity": 0.5}, {"module": UP, "sensitivity": 2}]


def text(**changes: Any) -> str:
    """Return an estimate's file with some values changed."""
    return json.dumps(ESTIMATE.to_json() | changes)


def with_module(**changes: Any) -> str:
    """Return an estimate's file with values of its first module changed."""
    first, *others = ESTIMATE.to_json()["scores"]
    return text(scores=[first | changes, *others])


def test_file_round_trips(tmp_path: Path) -> None:
    path = tmp_path / "estimate.json"
    write(path, ESTIMATE)
    assert read(path.read_text(encoding="utf-8"), path.name) == ESTIMATE
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_byte_order_mark_is_accepted() -> None:
    assert read("\ufeff" + text(), "file") == ESTIMATE


def test_format_is_stable() -> None:
    """Raise FORMAT when this breaks: people have such files."""
    assert ESTIMATE.to_json() == {
        "format": 1, "score": "signal", "checkpoint": "c0ffee", "dataset": "50a9", "batches": 96, "agreement": 0.96,
        "settings": {"seed": 42}, "scores": [
            {"module": Q, "mean": 1 / 3, "error": 1e-9, "bins": [-0.1, 0.0, 2.5], "shape": [128, 64]},
            {"module": UP, "mean": -2e-300, "error": 0.25, "bins": [0.5, 0.25, 0.125], "shape": [96, 64]}]}


@pytest.mark.parametrize(("content", "problem"), [
    ("", "not the JSON of an estimate"),
    ("{", "not the JSON of an estimate"),
    ("[" * 100_000, "not the JSON of an estimate"),
    ("null", "is not an estimate"),
    ('"text"', "is not an estimate"),
    ("{}", "is not an estimate"),
    ("[]", "has no modules"),
    (text(format=2), "has format 2; this version reads 1"),
    (text(format=True), "has format True"),
    (text(format=None), "has format None"),
    (text(scores=[]), "has no modules"),
    (text(scores={}), "scores must be a list"),
    (text(scores=[None]), "scores 1 must be an object, got None"),
    (text(more=1), "unknown field 'more'"),
    (json.dumps({"format": 1}), "It has no scores"),
    (text(score=1), "score must be text, got 1"),
    (text(checkpoint=None), "checkpoint must be text, got None"),
    (text(dataset=[]), "dataset must be text, got a list"),
    (text(batches=-1), "batches must be at least 0, got -1"),
    (text(batches=1.5), "batches must be a whole number, got 1.5"),
    (text(batches=True), "batches must be a whole number, got True"),
    (text(agreement=2), "agreement must be between -1 and 1, got 2"),
    (text(agreement="1"), "agreement must be a number, got '1'"),
    (text(settings=[]), "settings must be an object, got a list"),
    (text(agreement=math.nan), "NaN is not a finite number"),
    (with_module(mean=math.inf), "Infinity is not a finite number"),
    (with_module(mean="1"), "scores 1: mean must be a number, got '1'"),
    (with_module(mean=True), "scores 1: mean must be a number, got True"),
    (with_module(error=None), "scores 1: error must be a number, got None"),
    (with_module(bins=1), "scores 1: bins must be a list, got 1"),
    (with_module(bins=[None]), "scores 1: bins 1 must be a number"),
    (with_module(shape=[1]), "scores 1: shape must be a list of 2, got 1"),
    (with_module(shape=[1.0, 2]), "scores 1: shape must be a whole number, got 1.0"),
    (with_module(shape=[-1, 2]), "scores 1: shape must be at least 0, got -1"),
    (with_module(module=1), "scores 1: module must be text, got 1"),
    (with_module(module="*"), r"scores 1: module must be the name of a module, got '\*'"),
    (with_module(module="layers.*.self_attn.q_proj"), "must be the name of a module"),
    (with_module(module="../../escape"), "must be the name of a module"),
    (with_module(module=UP), f"has {UP} twice"),
    (with_module(more=1), "scores 1 has the unknown field 'more'"),
    ('{"format": 1, "format": 1}', "format is set twice"),
    (text(batches=10**40), "has 41 digits"),
    (" " * (MAX_CHARACTERS + 1), f"an estimate at most {MAX_CHARACTERS}"),
    (json.dumps([1]), "entry 1 must be an object, got 1"),
    (json.dumps([{"module": 1, "score": 1}]), "entry 1: module must be text"),
    (json.dumps([{"module": Q}]), "entry 1 has no score"),
    (json.dumps([{"module": Q, "score": "1"}]), "entry 1: score must be a number, got '1'"),
    (json.dumps([{"module": Q, "score": 1}, {"module": f"decoder.{Q}", "score": 2}]), f"has {Q} twice"),
    (json.dumps([{"module": "lyric_encoder.q_proj", "score": 1}]), "only such as 'lyric_encoder.q_proj'"),
])  # fmt: skip
def test_bad_file_is_refused(content: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read(content, "songs.json")


def test_side_step_list_is_read() -> None:
    found = read(json.dumps(LEGACY), "legacy.json")
    assert found == Estimate(scores=(ModuleScore(module=Q, mean=0.5), ModuleScore(module=UP, mean=2.0)),
                             score=IMPORTED)
    assert found.mismatches("any", "any") == ()


def test_ace_lora_trainer_list_is_read() -> None:
    entries = [{"module": Q, "score": 0.25, "raw_norm": 0.1}, {"module": UP, "score": 0.5, "raw_norm": 0.2}]
    assert read(json.dumps(entries), "list.json") == Estimate(
        scores=(ModuleScore(module=Q, mean=0.25), ModuleScore(module=UP, mean=0.5)), score=IMPORTED)


def test_block_scores_expand_to_projections() -> None:
    entries = [{"module": "decoder.layers.5.self_attn", "score": 3}, {"module": "layers.5.mlp", "score": 1}]
    assert {score.module: score.mean for score in read(json.dumps(entries), "list.json").scores} == {
        **{f"layers.5.self_attn.{name}_proj": 3.0 for name in "qkvo"},
        **{f"layers.5.mlp.{name}_proj": 1.0 for name in ("gate", "up", "down")}}


def test_unsupported_modules_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    more = [*LEGACY, {"module": "time_embed.linear_1", "sensitivity": 9.0}]
    with caplog.at_level(logging.WARNING):
        assert read(json.dumps(more), "legacy.json") == read(json.dumps(LEGACY), "legacy.json")
    assert "1 module(s) that adapters do not support, such as time_embed.linear_1" in caplog.text


def test_mismatch_is_named() -> None:
    assert ESTIMATE.mismatches("c0ffee", "50a9") == ()
    checkpoint, dataset = ESTIMATE.mismatches("other", "songs")
    assert "another checkpoint than this one" in checkpoint
    assert "another dataset than this one" in dataset
    assert ESTIMATE.mismatches("c0ffee", "songs") == (dataset,)


def test_ranking_breaks_ties_by_name() -> None:
    even = replace(ESTIMATE, scores=tuple(ModuleScore(module=name, mean=mean) for name, mean in
                                          ((Q, 1.0), (UP, 1.0), ("layers.9.mlp.up_proj", 2.0))))
    assert [score.module for score in even.ranked()] == ["layers.9.mlp.up_proj", UP, Q]
