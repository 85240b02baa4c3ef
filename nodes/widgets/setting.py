"""Widget of any setting: type, choices and default of its config, meaning and range of the table in settings/."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import get_args, get_origin, get_type_hints

from comfy_api.latest import io

from ...sidestep_core.config import Config
from ...sidestep_core.presets.text import WORDS
from ...sidestep_core.settings.setting import Settings
from . import words

MULTILINE = ("preview_lyrics", "module_ranks")


def setting_input(kind: type[Config], table: Settings, name: str, **options: object) -> io.Input:
    """Make the widget of the setting `name` of this config."""
    field, setting = _field(kind, name), table[name]
    hint = get_type_hints(kind)[name]
    usual = {"default": field.default, "tooltip": setting.tooltip, **options}
    if name in WORDS:
        return words.setting_input(kind, name, setting.tooltip, **options)
    if get_origin(hint) is tuple:
        return io.String.Input(name, **{**usual, "default": " ".join(field.default)}, **_multiline(name))
    if choices := get_args(hint):
        return io.Combo.Input(name, options=list(choices), **usual)
    if hint is bool:
        return io.Boolean.Input(name, **usual)
    if hint is int:
        # The page would give a seed a widget that randomises it after each run, which would train again each time.
        return io.Int.Input(name, min=int(setting.low), max=int(setting.high), step=int(setting.step),
                            control_after_generate=False if name == "seed" else None, **usual)
    if hint is float:
        return io.Float.Input(name, min=setting.low, max=setting.high, step=setting.step, round=setting.round, **usual)
    return io.String.Input(name, **usual, **_multiline(name))


def setting_inputs(kind: type[Config], table: Settings, *names: str, **options: object) -> list[io.Input]:
    """Make the widgets of these settings, with the same options."""
    return [setting_input(kind, table, name, **options) for name in names]


def _field(kind: type[Config], name: str) -> Field[object]:
    return next(field for field in fields(kind) if field.name == name)


def _multiline(name: str) -> dict[str, bool]:
    return {"multiline": True} if name in MULTILINE else {}
