"""Settings as people write them: `name: value`, one on each line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any, TypeVar, get_origin, get_type_hints

from ..config import Config
from ..errors import ConfigError

_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

AnyConfig = TypeVar("AnyConfig", bound=Config)


def parse(kind: type[Config], name: str, text: str) -> Any:
    """The text as a value of the setting's type; where it is none, the text itself, which the config then refuses."""
    expected = get_type_hints(kind)[name]
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


def read_lines(text: str) -> dict[str, str]:
    """Names and values of the lines.  Empty lines and lines that begin with # say nothing.

    ConfigError for a line that is no `name: value`, and for a name that comes twice.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not name:
            raise ConfigError(f"{line.strip()!r} is no change of a setting. Write its name, a colon and the new value, "
                              "such as learning_rate: 0.0002.")
        if name in found:
            raise ConfigError(f"{name} is changed twice. Leave one of the lines out.")
        found[name] = value
    return found


def change(config: AnyConfig, lines: dict[str, str]) -> AnyConfig:
    """The config with those of the settings that it has; the others are left for another config."""
    kind = type(config)
    mine = {field.name for field in fields(config)} & lines.keys()
    return replace(config, **{name: parse(kind, name, lines[name]) for name in sorted(mine)})


def check_known(lines: dict[str, str], configs: Sequence[Config]) -> None:
    """ConfigError that names the settings which none of the configs has, and the closest that there are."""
    names = [field.name for config in configs for field in fields(config)]
    unknown = sorted(lines.keys() - set(names))
    if unknown:
        close = [match for name in unknown for match in get_close_matches(name, names, n=2)]
        hint = f" Did you mean {' or '.join(close)}?" if close else f" There are {', '.join(names)}."
        raise ConfigError(f"There is no setting {', '.join(unknown)}.{hint}")
