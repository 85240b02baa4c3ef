"""Strict JSON refuses the lenient cases of json.loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidestep_core.errors import ConfigError
from sidestep_core.io import strict_json


def test_valid_json_is_parsed() -> None:
    text = '{"a": [1, -2.5e3, "x", null, true], "b": {"a": 999999999999999999}}'
    assert strict_json.loads(text) == json.loads(text)


@pytest.mark.parametrize(("text", "problem"), [
    ('{"a": 1, "b": {"c": 1, "c": 2}}', "c is set twice"),
    ("[NaN]", "NaN is not a finite number"),
    ("[-Infinity]", "-Infinity is not a finite number"),
    ("[1e999]", "1e999 is not a finite number"),
    ('{"a": {"lora_alpha" : NaN}}', "The text: lora_alpha: NaN is not a finite number"),
    ("[" + "9" * 5000 + "]", r"999999999999999999\.\.\. has 5000 digits"),
])  # fmt: skip
def test_lenient_json_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        strict_json.loads(text)


@pytest.mark.parametrize("text", ["", "{", "[1,]", "nothing"])
def test_syntax_error_names_its_line(text: str) -> None:
    with pytest.raises(strict_json.BadJson, match=r"a.json line 1 is not valid JSON"):
        strict_json.loads(text, "a.json")


def test_large_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(strict_json.BadJson, match=r"a.json has 1099511627776 bytes; at most 16000000"):
        strict_json.read(path)


def test_non_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(strict_json.BadJson, match="is not a file"):
        strict_json.read(tmp_path)
    with pytest.raises(strict_json.BadJson, match="cannot be read"):
        strict_json.read(tmp_path / "gone.json")


@pytest.mark.parametrize("value", ["[]", "{}", "0"])
def test_too_many_values_are_refused(value: str) -> None:
    """Twelve megabytes that would need half a gigabyte."""
    with pytest.raises(strict_json.BadJson, match=r"a.json holds more than 4000000 values"):
        strict_json.loads(f"[{','.join([value] * 4_000_001)}]", "a.json")


def test_lines_are_read_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n" + b" " * 2_000_000 + b"\n")
    lines = strict_json.read_lines(path)
    assert next(lines) == b"1\n"
    with pytest.raises(strict_json.BadJson, match=r"a.jsonl has a line of more than 1000000 bytes"):
        next(lines)
    with pytest.raises(strict_json.BadJson, match="at most 10 are read"):
        list(strict_json.read_lines(path, max_bytes=10))
