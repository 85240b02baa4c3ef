"""Flags made of settings: one for every field of a config, with the names that Side-Step has for it as well.

A flag that is not given leaves no trace, so that a preset's value, or the config's default, counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, get_args, get_origin

from sidestep_core.config import Config
from sidestep_core.errors import ConfigError
from sidestep_core.io.record import field_types
from sidestep_core.presets.text import WORDS, parse_setting, spell
from sidestep_core.settings.setting import Setting, Settings

Names = Mapping[str, tuple[str, ...]]
"""Setting -> its flags, where they are not its own name; the first is shown first."""

Value = Callable[[str], Any]


def add(parser: argparse._ArgumentGroup, kind: type[Config], table: Settings, name: str, section: str,
        names: Names) -> None:
    """Add the flag of one setting; its value goes to `section`.`name` of the parsed arguments."""
    hint, setting = field_types(kind)[name], table[name]
    flags = names.get(name, (f"--{name.replace('_', '-')}",))
    usual: dict[str, Any] = {"dest": f"{section}.{name}", "default": argparse.SUPPRESS,
                             "help": _help(kind, setting, name)}
    if hint is bool:
        parser.add_argument(*flags, action=argparse.BooleanOptionalAction, **usual)
        return
    choices = get_args(hint) if name not in WORDS and get_origin(hint) is not tuple else ()
    if choices and set(choices) >= {"on", "off"}:
        # A switch in Side-Step, with a third position here.
        parser.add_argument(*flags, nargs="?", const="on", choices=choices, **usual)
        parser.add_argument(*(f"--no-{flag[2:]}" for flag in flags), action="store_const", const="off",
                            **{**usual, "help": "The same as off."})
    elif choices:
        parser.add_argument(*flags, choices=choices, **usual)
    elif get_origin(hint) is tuple:
        parser.add_argument(*flags, nargs="+", metavar="NAME", **usual)
    else:
        parser.add_argument(*flags, type=_value(kind, setting, name), metavar=_metavar(name, hint), **usual)


def values(arguments: argparse.Namespace, section: str) -> dict[str, Any]:
    """Settings of a section that were given."""
    start = f"{section}."
    return {name.removeprefix(start): tuple(value) if isinstance(value, list) else value
            for name, value in vars(arguments).items() if name.startswith(start)}


def spelled_default(kind: type[Config], name: str) -> str:
    """Default of a setting in words."""
    field = _field(kind, name)
    default: Any = field.default_factory() if field.default_factory is not MISSING else field.default
    if name in WORDS:
        return spell(kind, name, default)
    if isinstance(default, bool):
        return "on" if default else "off"
    return " ".join(default) if isinstance(default, tuple) else f"{default}"


def _field(kind: type[Config], name: str) -> Field[Any]:
    return next(field for field in fields(kind) if field.name == name)


def _help(kind: type[Config], setting: Setting, name: str) -> str:
    default = spelled_default(kind, name)
    words = f" A number, or: {WORDS[name]}." if name in WORDS else ""
    return f"{setting.tooltip}{words}{f' Default: {default}.' if default else ''}".replace("%", "%%")


def _metavar(name: str, hint: Any) -> str:
    return "N" if name in WORDS or hint in (int, float) else name.rpartition("_")[2].upper()


def _value(kind: type[Config], setting: Setting, name: str) -> Value:
    """Make the function that reads the text of a flag.  ArgumentTypeError in words where it cannot."""
    hint = field_types(kind)[name]

    def value(text: str) -> Any:
        try:
            found = parse_setting(kind, name, text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        if hint in (int, float) and isinstance(found, str):
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if hint is int else ''}number")
        bounded = name not in WORDS and hint in (int, float)
        if bounded and not setting.low <= found <= setting.high:
            raise argparse.ArgumentTypeError(f"{text} is not between {setting.low:g} and {setting.high:g}")
        return found

    return value
