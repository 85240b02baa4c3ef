"""Records are built from JSON of their types, and nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from sidestep_core.io import strict_json
from sidestep_core.io.record import Between, Matching, Record, parse
from tests import hostile


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int]
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer(Record):
    count: int
    share: float
    names: tuple[str, ...]
    inner: Inner | None
    more: dict[str, list[float]] = field(default_factory=dict)
    mode: Literal["auto"] | int = 0
    level: Annotated[int, Between(1, 9)] = 1
    weight: Annotated[float, Between(0)] = 0.0
    word: Annotated[str, Matching(re.compile("[a-z]+"), "a word")] = "x"


GOOD: dict[str, Any] = {"count": 1, "share": 2, "names": ["x"], "inner": {"size": [1, 2]}, "more": {"y": [0.5]}}


def test_values_have_their_types() -> None:
    assert parse(GOOD, Outer, "a.json") == Outer(1, 2.0, ("x",), Inner((1, 2)), {"y": [0.5]})


def test_record_round_trips() -> None:
    record = Outer(1, 0.5, ("x", "y"), Inner((1, 2), "b"), {"y": [0.5]}, mode="auto", level=9)
    assert Outer.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(("change", "problem"), [
    ({"count": True}, "a.json: count must be a whole number, got True"),
    ({"count": 1 << 65}, "a.json: count must be a whole number"),
    ({"share": "2"}, "a.json: share must be a number, got '2'"),
    ({"names": "x"}, "a.json: names must be a list, got 'x'"),
    ({"names": [1]}, "a.json: names 1 must be text, got 1"),
    ({"inner": {"size": [1]}}, "a.json: inner: size must be a list of 2, got 1"),
    ({"inner": {"size": [1, 2], "kind": "c" * 500}}, r"inner: kind must be 'a' or 'b', got 'c{59}\.\.\."),
    ({"inner": 3}, "a.json: inner must be an object, got 3"),
    ({"more": {"y": [None]}}, "a.json: more: y 1 must be a number, got None"),
    ({"other": 3}, "a.json has the unknown field 'other'"),
    ({"mode": "x"}, "a.json: mode must be 'auto' or a whole number, got 'x'"),
    ({"level": 10}, "a.json: level must be between 1 and 9, got 10"),
    ({"level": "1"}, "a.json: level must be a whole number, got '1'"),
    ({"weight": -0.5}, "a.json: weight must be at least 0, got -0.5"),
    ({"word": "two words"}, "a.json: word must be a word, got 'two words'"),
])
def test_wrong_field_is_named(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(strict_json.BadJson, match=problem):
        parse(GOOD | change, Outer, "a.json")


def test_unknown_fields_can_be_allowed() -> None:
    assert Outer.from_json(GOOD | {"other": 3}, allow_unknown=True) == Outer.from_json(GOOD)


def test_missing_field_is_named() -> None:
    with pytest.raises(strict_json.BadJson, match=r"a.json has no share\."):
        parse({"count": 1}, Outer, "a.json")


@pytest.mark.parametrize("content", hostile.TEXTS.values(), ids=hostile.TEXTS.keys())
def test_hostile_file_is_refused_briefly(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(strict_json.BadJson, match=r"a\.json") as caught:
        parse(strict_json.read(path), Outer, "a.json")
    assert len(str(caught.value)) < 300
