"""Settings as text: `name: value`, one per line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

from ..config import Config
from ..errors import ConfigError
from ..io.record import field_types

_AUTOMATIC = ("auto", "automatic", "null")
_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

AnyConfig = TypeVar("AnyConfig", bound=Config)


def parse_setting(kind: type[Config], name: str, text: str) -> Any:
    """Convert the text to the setting's type; return it unchanged if it cannot be, for the config to refuse."""
    expected = field_types(kind)[name]
    if isinstance(expected, UnionType) and NoneType in get_args(expected):
        if text.lower() in _AUTOMATIC:
            return None
        expected, *_ = get_args(expected)
    if get_origin(expected) is tuple:
        return tuple(text.replace(",", " ").split())
    if expected is bool:
        return _SWITCHES.get(text.lower(), text)
    if expected in (int, float):
        try:
            return expected(text)
        except ValueError:
            return text
    return text


def parse_lines(text: str) -> dict[str, str]:
    """Parse names and values.  Empty lines and comments (#) are ignored.

    ConfigError for a line that is not `name: value`, and for a repeated name.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not name:
            raise ConfigError(f"{line.strip()!r} is not a setting. Write its name, a colon and the new value, "
                              "such as learning_rate: 0.0002.")
        if name in found:
            raise ConfigError(f"{name} is changed twice. Leave one of the lines out.")
        found[name] = value
    return found


def apply_changes(config: AnyConfig, lines: dict[str, str]) -> AnyConfig:
    """Change the settings that the config has; ignore the others, which are another config's."""
    kind = type(config)
    own = field_types(kind).keys() & lines.keys()
    return replace(config, **{name: parse_setting(kind, name, lines[name]) for name in sorted(own)})


def require_known(lines: dict[str, str], configs: Sequence[Config]) -> None:
    """Raise ConfigError if none of the configs has a setting, with the closest names."""
    names = [name for config in configs for name in field_types(type(config))]
    unknown = sorted(lines.keys() - set(names))
    if unknown:
        close = [match for name in unknown for match in get_close_matches(name, names, n=2)]
        hint = f" Did you mean {' or '.join(close)}?" if close else f" There are {', '.join(names)}."
        raise ConfigError(f"There is no setting {', '.join(unknown)}.{hint}")
