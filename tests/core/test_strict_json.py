"""Strict JSON: what json.loads would let pass."""

from __future__ import annotations

import json

import pytest

from sidestep_core import strict_json
from sidestep_core.errors import ConfigError


def test_good_json_is_read_as_usual() -> None:
    text = '{"a": [1, -2.5e3, "x", null, true], "b": {"a": 999999999999999999}}'
    assert strict_json.loads(text) == json.loads(text)


@pytest.mark.parametrize(("text", "problem"), [
    ('{"a": 1, "b": {"c": 1, "c": 2}}', "c is set twice"),
    ("[NaN]", "NaN is not a finite number"),
    ("[-Infinity]", "-Infinity is not a finite number"),
    ("[1e999]", "1e999 is not a finite number"),
    ("[" + "9" * 5000 + "]", r"999999999999999999\.\.\. has 5000 digits"),
])  # fmt: skip
def test_what_json_loads_lets_pass_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        strict_json.loads(text)


@pytest.mark.parametrize("text", ["", "{", "[1,]", "nothing"])
def test_no_json_is_an_ordinary_value_error(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        strict_json.loads(text)
