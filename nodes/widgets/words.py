"""Widgets that hold a number or a word, such as `automatic`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from comfy_api.latest import io

from ...sidestep_core.config import Config
from ...sidestep_core.presets.text import WORDS, number_or_word, parse_setting, spell

FROM_THE_FILE = "from the file"


def setting_input(kind: type[Config], name: str, tooltip: str, **options: object) -> io.Input:
    """Widget of a setting of WORDS, with its default."""
    defaults = {field.name: field.default for field in fields(kind)}
    return _input(name, spell(kind, name, defaults[name]), tooltip, WORDS[name], options)


def parsed(kind: type[Config], widgets: Mapping[str, object]) -> dict[str, object]:
    """Convert what widgets hold to values of the config's settings."""
    return {name: parse_setting(kind, name, value) if isinstance(value, str) else value
            for name, value in widgets.items()}


def alpha_input() -> io.Input:
    """Widget for the alpha of an adapter file that does not contain it."""
    return _input("alpha", FROM_THE_FILE, (
        "Only for files that do not contain their alpha and have no adapter_config.json beside them: the alpha that "
        "they were trained with, often twice the rank."), FROM_THE_FILE, {"optional": True, "advanced": True})


def alpha(text: str) -> float:
    """Alpha in the widget; 0 for the file's own."""
    return number_or_word("alpha", text, FROM_THE_FILE, 0.0, float)


def _input(name: str, default: str, tooltip: str, word: str, options: Mapping[str, object]) -> io.Input:
    return io.String.Input(name, default=default, tooltip=f"{tooltip} A number, or: {word}.", **options)
