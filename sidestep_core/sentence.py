"""Sentences that can be had in other languages: they remember their text and the values in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self


class Sentence(str):
    """Sentence in English, made from a text with {names} and their values; the text is the key of its translations.

    A value may be a sentence itself.  With a number `n` among the values, `one` is the text for n = 1.
    """

    __slots__ = ("one", "text", "values")

    text: str
    values: dict[str, str | int | float]
    one: str

    def __new__(cls, text: str, *, one: str = "", **values: str | int | float) -> Self:
        form = one if one and values["n"] == 1 else text
        made = super().__new__(cls, form.format(**{name: _english(value) for name, value in values.items()}))
        made.text, made.values, made.one = text, values, one
        return made

    @classmethod
    def joined(cls, parts: Iterable[str]) -> str:
        """Join sentences and plain texts with spaces; empty ones are left out."""
        found = [part for part in parts if part]
        if len(found) < 2:
            return found[0] if found else ""
        values = {f"part_{number}": part for number, part in enumerate(found)}
        return cls(" ".join(f"{{{name}}}" for name in values), **values)

    def to_json(self) -> dict[str, object]:
        """Parts of the sentence, for the page."""
        values = {name: value.to_json() if isinstance(value, Sentence) else value
                  for name, value in self.values.items()}
        return {"text": self.text, "values": values, "one": self.one}


def _english(value: str | int | float) -> str:
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,g}"
