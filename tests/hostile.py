"""Texts that no reader of JSON may stumble over: each is refused in one sentence."""

from __future__ import annotations

TEXTS: dict[str, bytes] = {
    "empty": b"",
    "deep list": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "deep and whole": b"[" * 500 + b"]" * 500,
    "null": b"null",
    "list": b"[1]",
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
}
