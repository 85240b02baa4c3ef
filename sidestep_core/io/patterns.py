"""Regular expressions from foreign files: matched within a second, or refused."""

from __future__ import annotations

from ..errors import ConfigError
from ..optional import imports
from . import strict_json

MATCH_SECONDS = 1.0
"""Seconds of processor time."""
MAX_LENGTH = 2000
"""Characters."""


def matches(pattern: str, name: str) -> bool:
    """Return True if a regular expression matches a whole name.

    ConfigError if it is invalid, or takes more than a second: some need years for a name of forty letters.
    """
    with imports("regex", "Reading the patterns of an adapter's settings"):
        import regex

    try:
        if len(pattern) > MAX_LENGTH:
            raise ConfigError(f"it has {len(pattern)} characters")
        return regex.fullmatch(pattern, name, timeout=MATCH_SECONDS) is not None
    except (regex.error, TimeoutError, MemoryError, RecursionError, ConfigError) as error:
        raise ConfigError(f"The pattern {strict_json.shown(pattern)} in the adapter's settings cannot be used "
                          f"({error}). Remove it from its adapter_config.json.") from error
