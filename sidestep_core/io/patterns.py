"""Patterns in files of strangers: matched within a second, or refused."""

from __future__ import annotations

from ..errors import ConfigError
from ..optional import imports
from . import strict_json

LONGEST_MATCH = 1.0
"""Seconds of processor time."""
LONGEST = 2000
"""Characters."""


def fits(pattern: str, name: str) -> bool:
    """Whether a regular expression fits a whole name.

    ConfigError where it is none, or is not done within a second: some need years for a name of forty letters.
    """
    with imports("regex", "Reading the patterns of an adapter's settings"):
        import regex

    try:
        if len(pattern) > LONGEST:
            raise ConfigError(f"it has {len(pattern)} characters")
        return regex.fullmatch(pattern, name, timeout=LONGEST_MATCH) is not None
    except (regex.error, TimeoutError, MemoryError, RecursionError, ConfigError) as error:
        raise ConfigError(f"The pattern {strict_json.shown(pattern)} in the adapter's settings cannot be used "
                          f"({error}). Remove it from its adapter_config.json.") from error
