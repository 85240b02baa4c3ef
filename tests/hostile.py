"""Malformed JSON that no reader may crash on, and valid JSON with each field corrupted."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

TEXTS: dict[str, bytes] = {
    "empty": b"",
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "deep and whole": b"[" * 500 + b"]" * 500,
    "null": b"null",
    "list": b"[1]",
    "empty list": b"[]",
    "list of lists": b"[[[]], [{}]]",
    "list of objects": b"[{}, {\"a\": 1}]",
    "text": b'"x"',
    "number": b"1",
    "true": b"true",
    "empty object": b"{}",
    "not a number": b'{"lora_alpha": NaN, "step": NaN, "format": NaN}',
    "infinite": b'{"r": 1e999, "lora_alpha": -Infinity, "step": 1e999}',
    "huge number": b'{"r": ' + b"9" * 5000 + b"}",
    "set twice": b'{"step": 1, "step": 1}',
    "half a character": b'{"step": "\\ud800", "\\udfff": 1}',
    "binary": b"\x00\x01\xff",
    "no UTF-8": b'{"step": "\xe9"}',
    "UTF-16": '{"step": 1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"step": 1}'.encode("utf-16-le"),
    "cut off": b'{"step": 1, "loss": ',
    "wrong types": b'{"r": "x", "lora_alpha": [], "rank_pattern": 3, "step": {}, "format": [], "samples": 3}',
    "broken patterns": b'{"r": 2, "lora_alpha": 2, "target_modules": "(", "alpha_pattern": {"[": 2, "": 3}}',
}

BAD: tuple[Any, ...] = (None, True, 3, -1, 10**18, 1e308, float("nan"), "", "x", "../../x", "a\0b", "\ud800", "(", [],
                        {}, [[[]]], {"a": {}})
"""Values that replace a valid field."""


def spoiled(good: Any, values: Sequence[Any] = BAD) -> Iterator[tuple[str, bytes]]:
    """Yield copies of a JSON value with one field of an object, or the first item of a list, replaced or removed."""
    for way in _ways(good):
        for bad in values:
            yield f"{way} = {bad!r}", _with(good, way, bad)
        yield f"without {way}", _with(good, way, ...)
    yield "with another field", json.dumps({**good, "another": 1}).encode() if isinstance(good, dict) else b"[]"


def _ways(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key in list(value) if isinstance(value, dict) else range(min(1, len(value))) if isinstance(value, list) else ():
        yield (*way, key)
        yield from _ways(value[key], (*way, key))


def _with(good: Any, way: tuple[Any, ...], bad: Any) -> bytes:
    changed = copy.deepcopy(good)
    place = changed
    for key in way[:-1]:
        place = place[key]
    if bad is ...:
        del place[way[-1]]
    else:
        place[way[-1]] = bad
    return json.dumps(changed).encode()
