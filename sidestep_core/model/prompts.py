"""Prompt text of ComfyUI and of the official program, to the letter.

The official program (Gradio) and diffusers use the instruction to fill a mask, ComfyUI always the one to generate
tokens; they round the duration down, keep the caption as typed, have no escapes, and use a timbre reference of thirty
seconds whatever the length.  Sources: ACE-Step-1.5's conditioning_text.py and metadata formatting, diffusers'
pipeline_ace_step.py, ComfyUI's text_encoders/ace15.py.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .flow_matching import FRAMES_PER_SECOND

COMFYUI = "comfyui"
OFFICIAL = "official"
"""Styles: the program that generates with the adapter."""
CAPTION_TEMPLATE = (
    "# Instruction\nGenerate audio semantic tokens based on the given conditions:\n\n"
    "# Caption\n{caption}\n\n# Metas\n{metas}\n<|endoftext|>\n<|endoftext|>"
)
LYRICS_TEMPLATE = "# Languages\n{language}\n\n# Lyric\n{lyrics}<|endoftext|><|endoftext|>"
OFFICIAL_CAPTION_TEMPLATE = (
    "# Instruction\nFill the audio semantic mask based on the given conditions:\n\n"
    "# Caption\n{caption}\n\n# Metas\n{metas}\n<|endoftext|>\n"
)
OFFICIAL_LYRICS_TEMPLATE = "# Languages\n{language}\n\n# Lyric\n{lyrics}<|endoftext|>"
"""Without the <|endoftext|> that the official tokenizer adds to every text."""
OFFICIAL_TIMBRE_FRAMES = 30 * FRAMES_PER_SECOND
"""The official `timbre_fix_frame`."""
UNKNOWN = "N/A"
_ACCIDENTALS = {"": "", "#": "#", "b": "b", "\u266f": "#", "\u266d": "b"}
_KEY = re.compile(r"([A-Ga-g])([#b\u266f\u266d]?)\s*(?:(m|(?i:min|minor))|M|(?i:maj|major)|)")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Fields of a program's text form for one song."""

    caption: str
    lyrics: str
    language: str
    bpm: int | None
    key: str
    signature: str
    seconds: float
    style: str = COMFYUI
    """Style of the text: ComfyUI's, or that of the official program and of diffusers."""

    @property
    def caption_text(self) -> str:
        """Input of the text encoder: instruction, caption and metas."""
        official = self.style == OFFICIAL
        metas = {
            "bpm": UNKNOWN if self.bpm is None else str(self.bpm),
            # Both programs offer beats per bar only: "4/4" and "6/8" are their 4 and 6.
            "timesignature": self.signature.split("/")[0].strip() or UNKNOWN,
            "keyscale": spell_out_key(self.key) or UNKNOWN,
            "duration": f"{int(self.seconds) if official else math.ceil(self.seconds)} seconds",
        }
        lines = "\n".join(f"- {name}: {value}" for name, value in metas.items())
        if official:
            return OFFICIAL_CAPTION_TEMPLATE.format(caption=self.caption, metas=lines)
        return _plain_parentheses(CAPTION_TEMPLATE.format(caption=self.caption.strip(), metas=lines))

    @property
    def lyrics_text(self) -> str:
        """Input of the lyric encoder: language and lyrics."""
        language = self.language.strip().lower()
        if self.style == OFFICIAL:
            return OFFICIAL_LYRICS_TEMPLATE.format(language=language, lyrics=self.lyrics)
        return _plain_parentheses(LYRICS_TEMPLATE.format(language=language, lyrics=self.lyrics))

    @property
    def timbre_frames(self) -> int:
        """Frames of silence used as the missing timbre reference."""
        return OFFICIAL_TIMBRE_FRAMES if self.style == OFFICIAL else round(self.seconds * FRAMES_PER_SECOND)


def spell_out_key(key: str) -> str:
    """Spell a key as both programs do: "Am" and "a min" become "A minor"; other text is unchanged."""
    match = _KEY.fullmatch(key.strip())
    if match is None:
        return key.strip()
    return f"{match[1].upper()}{_ACCIDENTALS[match[2]]} {'minor' if match[3] else 'major'}"


def _plain_parentheses(text: str) -> str:
    """Unescape parentheses: ComfyUI's prompts use \\( for a literal one, also without prompt weights."""
    return text.replace("\\)", ")").replace("\\(", "(")
