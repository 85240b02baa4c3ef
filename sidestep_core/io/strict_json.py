"""JSON of any origin, read within bounds: a hostile file causes one error message, never a crash.

`read` and `loads` bound the size, the depth and the numbers; record.py checks the values against annotations.  Every
failure is a BadJson with one sentence that names the file and the value, shortened.  The only module that calls
json.loads.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ..errors import ConfigError, SideStepError

MAX_BYTES = 16_000_000
"""Default limit of a file."""
MAX_VALUES = 4_000_000
"""Counted by the commas and brackets of a text, those in strings included: each value takes up to a hundred bytes of
memory, many times its size in the file."""
MAX_LINE = 1_000_000
"""Bytes of a line, in a file that is read by lines."""
MAX_DIGITS = 20
MAX_DEPTH = 64
MAX_SHOWN = 60
"""Characters of a wrong value in a message."""
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")

Json = Any
"""Value of json.loads; every reader checks what it takes from it."""
Unique = Callable[[str], object]
"""Truthy for a name that an object may hold only once."""
AnyRecord = TypeVar("AnyRecord")


class BadJson(ConfigError):
    """The text is not JSON, exceeds the bounds, or holds a value of another type than its field."""


def read(path: Path, *, max_bytes: int = MAX_BYTES, label: str = "") -> Json:
    """Read a file of at most `max_bytes` bytes; a larger one is refused before reading.

    BadJson, which calls the file `label` (by default its name), if it is missing, unreadable, or not JSON.
    """
    return loads(read_bytes(path, max_bytes=max_bytes, label=label), label or path.name)


def read_bytes(path: Path, *, max_bytes: int = MAX_BYTES, label: str = "") -> bytes:
    """Read the bytes of a regular file of at most `max_bytes` bytes.  BadJson as in `read`."""
    with _opened(path, max_bytes, label or path.name) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise _too_large(label or path.name, len(content), max_bytes)
    return content


def read_lines(path: Path, *, max_bytes: int = MAX_BYTES) -> Iterator[bytes]:
    """Yield the lines, each of at most MAX_LINE bytes, of a regular file.  BadJson as in `read`."""
    with _opened(path, max_bytes, path.name) as file:
        while line := file.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise BadJson(f"{path.name} has a line of more than {MAX_LINE} bytes. Is it the right file?")
            yield line


@contextlib.contextmanager
def _opened(path: Path, max_bytes: int, label: str) -> Iterator[BinaryIO]:
    """Open the file for reading.  BadJson if it is not a regular file, too large, or unreadable."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise BadJson(f"{label} is not a file.")
        if facts.st_size > max_bytes:
            raise _too_large(label, facts.st_size, max_bytes)
        with path.open("rb") as file:
            yield file
    except (OSError, ValueError) as error:
        if isinstance(error, SideStepError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else "") or error
        raise BadJson(f"{label} cannot be read ({reason}).") from error


def _too_large(label: str, size: int, max_bytes: int) -> BadJson:
    return BadJson(f"{label} has {size} bytes; at most {max_bytes} are read. Is it the right file?")


def loads(content: str | bytes, label: str = "The text", *, unique: Unique = lambda name: True,
          unicode: bool = True) -> Json:
    """Parse a text, or UTF-8 bytes with or without a byte-order mark.

    BadJson for more than MAX_VALUES values, a name that is set twice (of those that `unique` accepts), a number that
    is not finite, an integer of more than 20 digits, more than 64 levels, half a character (unless `unicode` is False),
    and invalid JSON.
    """
    text = _decoded(content, label) if isinstance(content, bytes) else content.lstrip("\ufeff")
    if len(text) > MAX_VALUES and sum(map(text.count, ",[{")) > MAX_VALUES:
        raise BadJson(f"{label} holds more than {MAX_VALUES} values. Is it the right file?")
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, unique), parse_int=_integer,
                           parse_float=_finite, parse_constant=_finite)
    except json.JSONDecodeError as error:
        raise BadJson(f"{label} line {error.lineno} is not valid JSON: {error.msg}.") from error
    except _BadNumber as error:
        raise BadJson(f"{label}: {_field_of(error.literal, text)}{error}") from error
    except BadJson as error:
        raise BadJson(f"{label}: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise BadJson(f"{label} is nested too deeply.") from error
    _check(value, label, unicode)
    return value


def as_object(value: Json, where: str) -> dict[str, Any]:
    """Return the value if it is a JSON object; else raise BadJson."""
    if not isinstance(value, dict):
        raise BadJson(f"{where} must be an object, got {shown(value)}.")
    return value


def shown(value: object) -> str:
    """Format a value for messages: one line, shortened."""
    if isinstance(value, (dict, list, tuple)):
        return f"a list of {len(value)}" if not isinstance(value, dict) else f"an object of {len(value)}"
    text = repr(value[:MAX_SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _decoded(content: bytes, label: str) -> str:
    if content.startswith(_UTF16) or content[1:2] == b"\0":
        raise BadJson(f"{label} is not UTF-8 but UTF-16. Save it as UTF-8.")
    try:
        return content.decode("utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise BadJson(f"{label} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error


def _check(value: Json, label: str, unicode: bool) -> None:
    """Check depth and characters, without recursion."""
    level, depth = [value], 0
    while level:
        texts = [item for item in level if isinstance(item, str)]
        if unicode and any(map(_LONE_SURROGATE.search, texts)):
            raise BadJson(f"{label} holds half a character, which is no valid Unicode.")
        inner = [item for item in level if isinstance(item, (dict, list))]
        depth += bool(inner)
        if depth > MAX_DEPTH:
            raise BadJson(f"{label} is nested more than {MAX_DEPTH} levels deep.")
        level = [child for item in inner for child in (item if isinstance(item, list) else (*item, *item.values()))]


def _object(pairs: list[tuple[str, Any]], unique: Unique) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        if twice := [name[:MAX_SHOWN] for name, count in counts.items() if count > 1 and unique(name)]:
            raise BadJson(f"{', '.join(twice[:3])} is set twice.")
    return values


class _BadNumber(BadJson):
    """A number out of bounds, with its literal."""

    def __init__(self, literal: str, problem: str) -> None:
        super().__init__(problem)
        self.literal = literal


def _field_of(literal: str, text: str) -> str:
    """Return the name of the first field with this number, as the beginning of a sentence; "" if there is none."""
    found = re.search(rf'"([^"\\]{{1,{MAX_SHOWN}}})"\s{{0,9}}:\s{{0,9}}{re.escape(literal[:MAX_SHOWN])}', text)
    return f"{found[1]}: " if found else ""


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise _BadNumber(text, f"{text[:MAX_DIGITS]}... has {len(text)} digits.")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _BadNumber(text, f"{text[:MAX_SHOWN]} is not a finite number.")
    return value

