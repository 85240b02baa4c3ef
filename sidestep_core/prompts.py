"""The text that ComfyUI makes of what a person types, to the letter."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

CAPTION_TEMPLATE = (
    "# Instruction\nGenerate audio semantic tokens based on the given conditions:\n\n"
    "# Caption\n{caption}\n\n# Metas\n{metas}\n<|endoftext|>\n<|endoftext|>"
)
LYRICS_TEMPLATE = "# Languages\n{language}\n\n# Lyric\n{lyrics}<|endoftext|><|endoftext|>"
UNKNOWN = "N/A"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The fields of the host's text node, as a person would fill them in for this song."""

    caption: str
    lyrics: str
    language: str
    bpm: int | None
    key: str
    signature: str
    seconds: float

    @property
    def caption_text(self) -> str:
        """What the text encoder reads: instruction, caption and metas."""
        metas = {
            "bpm": UNKNOWN if self.bpm is None else str(self.bpm),
            # The host's node offers beats per bar only: "4/4" and "6/8" are its 4 and 6.
            "timesignature": self.signature.split("/")[0].strip() or UNKNOWN,
            "keyscale": _spelled_out(self.key) or UNKNOWN,
            "duration": f"{math.ceil(self.seconds)} seconds",
        }
        lines = "\n".join(f"- {name}: {value}" for name, value in metas.items())
        return _plain_parentheses(CAPTION_TEMPLATE.format(caption=self.caption.strip(), metas=lines))

    @property
    def lyrics_text(self) -> str:
        """What the lyric encoder reads: language and lyrics."""
        return _plain_parentheses(LYRICS_TEMPLATE.format(language=self.language.strip().lower(), lyrics=self.lyrics))


def _spelled_out(key: str) -> str:
    """A key as the host's node offers it: "Am" and "a min" are "A minor"; what is no key stays as it is."""
    match = re.fullmatch(r"([A-Ga-g])([#b]?)\s*(?:(m|[Mm]in|[Mm]inor)|M|[Mm]aj|[Mm]ajor|)", key.strip())
    if match is None:
        return key.strip()
    return f"{match[1].upper()}{match[2]} {'minor' if match[3] else 'major'}"


def _plain_parentheses(text: str) -> str:
    """The host's prompts use \\( for a literal parenthesis, also where weights are switched off."""
    return text.replace("\\)", ")").replace("\\(", "(")
