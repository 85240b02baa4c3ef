"""Dataclasses from JSON values: strict, typed, bounded.

Every value is checked against the annotation of its field; a failure is a BadJson with one sentence that names the
place, the field and the value, shortened.
"""

from __future__ import annotations

import logging
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from re import Pattern
from typing import Annotated, Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints, overload

from .strict_json import MAX_SHOWN, BadJson, Json, as_object, read, shown

log = logging.getLogger(__name__)

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Between:
    """Bounds of a number: `Annotated[int, Between(1, 100)]`."""

    least: float
    most: float = math.inf

    def problem(self, value: float) -> str:
        """Return the end of a sentence if the value is out of bounds; else empty."""
        if self.least <= value <= self.most:
            return ""
        least, most = (str(bound) if isinstance(bound, int) else f"{bound:g}" for bound in (self.least, self.most))
        return f"at least {least}" if self.most == math.inf else f"between {least} and {most}"


@dataclass(frozen=True)
class Matching:
    """Pattern of a whole text: `Annotated[str, Matching(pattern, "the name of a module")]`."""

    pattern: Pattern[str]
    meaning: str

    def problem(self, value: str) -> str:
        """Return the end of a sentence if the text does not match; else empty."""
        return "" if self.pattern.fullmatch(value) else self.meaning


@dataclass(frozen=True)
class Record:
    """Base of dataclasses that travel as JSON and come back equal."""

    @classmethod
    def from_json(cls, values: Json, where: str = "", *, allow_unknown: bool = False) -> Self:
        """Build from a JSON object.  BadJson names a field that is missing, unknown, or of another type."""
        return _dataclass(cls, values, where, allow_unknown=allow_unknown)

    @classmethod
    def read_or_none(cls, path: Path, max_bytes: int) -> Self | None:
        """Read a file that others can do without; None if there is none, or, with a warning, if it is damaged."""
        if not path.is_file():
            return None
        try:
            return cls.from_json(read(path, max_bytes=max_bytes), path.name)
        except BadJson as error:
            log.warning("%s is left out: %s", path, error)
            return None

    def to_json(self) -> dict[str, Any]:
        """Return a dict that json.dumps accepts and `from_json` turns back into an equal record."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


@overload
def parse(value: Json, annotation: type[Parsed], where: str = "") -> Parsed: ...
@overload
def parse(value: Json, annotation: Any, where: str = "") -> Any: ...
def parse(value: Json, annotation: Any, where: str = "") -> Any:
    """Return the value as its annotation has it: plain types, Literal, Annotated with Between or Matching, unions,
    list, tuple, dict, Path and dataclasses.

    An integer is accepted for a float, a bool never for a number; integers have at most 64 bits and a sign.
    """
    if annotation is str and type(value) is str:
        return value  # most of a large file
    origin = get_origin(annotation) or annotation
    if annotation is Any or annotation is object:
        return value
    if origin is Annotated:
        return _bounded(value, get_args(annotation), where)
    if is_dataclass(origin):
        return _dataclass(annotation, value, where)
    if origin in (types.UnionType, Union):
        return _one_of(value, get_args(annotation), where)
    if origin in (list, tuple, Sequence):
        return _items(value, origin, get_args(annotation), where)
    if origin in (dict, Mapping):
        kind = get_args(annotation)[1] if get_args(annotation) else Any
        values = as_object(value, _subject(where)).items()
        return {name: parse(item, kind, _inside(where, name[:MAX_SHOWN])) for name, item in values}
    if not _fits(value, origin, annotation):
        raise BadJson(f"{_subject(where)} must be {describe(annotation)}, got {shown(value)}.")
    return origin(value) if origin in (float, Path) else value


def field_types(kind: type[Any]) -> dict[str, Any]:
    """Return the fields of a dataclass by name, with their annotations."""
    known, hints = _fields(kind)  # type: ignore[arg-type]
    return {name: hints[name] for name in known}


def describe(annotation: Any) -> str:
    """Describe a type in words, such as "a whole number" or "'mean' or 'max'"."""
    origin, options = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(map(repr, options))
    if origin in (types.UnionType, Union):
        return " or ".join(map(describe, options))
    if origin is Annotated:
        return describe(options[0])
    if origin in (list, tuple):
        return f"a list, each {describe(options[0])}" if options else "a list"
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path",
             dict: "an object", types.NoneType: "null"}
    return names.get(origin or annotation, str(annotation))


def _dataclass(kind: type[Parsed], values: Json, where: str, *, allow_unknown: bool = False) -> Parsed:
    values = as_object(values, _subject(where))
    known, hints = _fields(kind)  # type: ignore[arg-type]
    unknown = sorted(values.keys() - known.keys())
    if unknown and not allow_unknown:
        raise BadJson(f"{_subject(where)} has the unknown field {shown(unknown[0])}.")
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise BadJson(f"{_subject(where)} has no {name}.")
    return kind(**{name: parse(values[name], hints[name], _inside(where, name)) for name in known if name in values})


@cache
def _fields(kind: type[Any]) -> tuple[dict[str, Field[Any]], dict[str, Any]]:
    """Return fields and annotations by name; cached, as a header asks for them once per tensor."""
    return {field.name: field for field in fields(kind) if field.init}, get_type_hints(kind, include_extras=True)


def _bounded(value: Json, options: Sequence[Any], where: str) -> Any:
    found = parse(value, options[0], where)
    for bound in options[1:]:
        if problem := bound.problem(found):
            raise BadJson(f"{_subject(where)} must be {problem}, got {shown(value)}.")
    return found


def _one_of(value: Json, options: Sequence[Any], where: str) -> Any:
    if value is None and type(None) in options:
        return None
    kinds = [option for option in options if option is not type(None)]
    if len(kinds) == 1:
        return parse(value, kinds[0], where)
    for kind in kinds:
        try:
            return parse(value, kind, where)
        except BadJson:
            continue
    raise BadJson(f"{_subject(where)} must be {' or '.join(map(describe, kinds))}, got {shown(value)}.")


def _items(value: Json, origin: Any, kinds: Sequence[Any], where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise BadJson(f"{_subject(where)} must be a list, got {shown(value)}.")
    if origin is tuple and kinds and kinds[-1] is not Ellipsis:
        if len(value) != len(kinds):
            raise BadJson(f"{_subject(where)} must be a list of {len(kinds)}, got {len(value)}.")
        return tuple(parse(item, kind, where) for item, kind in zip(value, kinds, strict=True))
    kind = kinds[0] if kinds else Any
    found = [parse(item, kind, f"{where} {number}".lstrip()) for number, item in enumerate(value, start=1)]
    return found if origin is list else tuple(found)


def _fits(value: Json, origin: Any, annotation: Any) -> bool:
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in get_args(annotation))
    if origin is Path:
        return isinstance(value, str) and "\0" not in value
    if origin is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool) and -(1 << 64) <= value <= 1 << 64
    return isinstance(value, origin)


def _subject(where: str) -> str:
    return where or "It"


def _inside(where: str, name: str) -> str:
    return f"{where}: {name}" if where else name


def _plain(value: Any) -> Any:
    """Turn dataclasses, tuples, mappings and paths into values of JSON."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return str(value) if isinstance(value, Path) else value
