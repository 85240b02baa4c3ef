"""Settings as text: `name: value`, one per line, with words such as `automatic` for some numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_origin

from ..config import Config
from ..errors import ConfigError
from ..io.record import field_types

_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

AUTOMATIC = "automatic"
_SYNONYMS = {"auto": AUTOMATIC, "null": AUTOMATIC}
WORDS = {
    "cfg_ratio": AUTOMATIC, "genre_ratio": AUTOMATIC, "heldout_songs": AUTOMATIC, "shift": AUTOMATIC,
    "inference_steps": AUTOMATIC, "epochs": "use max_steps", "ema_decay": "off",
    "chunk_duration": "whole songs", "early_stopping": "never", "target_loss": "never",
    "save_minutes": "never", "keep_checkpoints": "all", "preview_every": "never",
    "estimate_batches": AUTOMATIC, "max_seconds": "whole songs", "factor": AUTOMATIC,
    "preserve": "off", "guidance": "off", "lyrics_dropout": "off", "caption_dropout": "off",
    "lora_plus_ratio": "off",
}  # fmt: skip
"""Numeric setting -> word for its default if that is `automatic`, else for 0."""

AnyConfig = TypeVar("AnyConfig", bound=Config)
Meaning = TypeVar("Meaning")


def parse_setting(kind: type[Config], name: str, text: str) -> Any:
    """Convert the text to the setting's type; return it unchanged if it cannot be, for the config to refuse.

    ConfigError for text that is neither a number nor the setting's word.
    """
    expected = field_types(kind)[name]
    if name in WORDS:
        whole = int in (expected, *get_args(expected))
        return number_or_word(name, text, WORDS[name], _meaning(kind, name), int if whole else float)
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


def number_or_word(name: str, text: str, word: str, meaning: Meaning,
                   number: Callable[[str], float]) -> Meaning | float:
    """Convert a number; the word, in any case, stands for `meaning`.  ConfigError for anything else."""
    lower = text.strip().lower()
    if _SYNONYMS.get(lower, lower) == word:
        return meaning
    try:
        return number(text)
    except ValueError:
        raise ConfigError(f"{name} must be a number or {word!r}, got {text.strip()!r}.") from None


def _meaning(kind: type[Config], name: str) -> float | None:
    """Value that the setting's word stands for."""
    defaults: dict[str, Any] = {field.name: field.default for field in fields(kind)}
    if WORDS[name] == AUTOMATIC:
        automatic: float | None = defaults[name]
        return automatic
    # As its default is written, so that the same settings are the same text, from a widget or a flag.
    return 0.0 if field_types(kind)[name] is float else 0


def spell(kind: type[Config], name: str, value: float | None) -> str:
    """Write the value of a setting of WORDS as its word or as digits; `parse_setting` reads it back."""
    return WORDS[name] if value == _meaning(kind, name) else f"{value:.12g}"


def spelled(config: Config) -> dict[str, Any]:
    """Settings of a config, with words where WORDS has one, as widgets hold them."""
    return {name: spell(type(config), name, value) if name in WORDS else value
            for name, value in config.to_json().items()}


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
