"""Characters that nobody types into a text: what is left of one that was read in the wrong encoding, or hidden marks.

Joiners of emoji and Persian, combining marks and the marks U+200E and U+200F of right-to-left scripts are legible.
"""

from __future__ import annotations

import re

_CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_DIRECTION = "\u202a-\u202e\u2066-\u2069"
_ILLEGIBLE = re.compile(f"[{_CONTROL}{_DIRECTION}\ufffd-\uffff]")
_TURNS = re.compile(f"[{_DIRECTION}]")
_SPACE = r"[^\S\x0b\x0c\x1c-\x1f\x85]"
_SPACES = re.compile(f"{_SPACE}+")
_AROUND = re.compile(rf"\A{_SPACE}+|{_SPACE}+\Z")
BOM = "\ufeff"


def illegible(text: str) -> str:
    """What is wrong with the first illegible character of a text, as the end of a sentence; empty where none is."""
    found = _ILLEGIBLE.search(text)
    if found is None:
        return ""
    code = f"U+{ord(found[0]):04X}"
    if _TURNS.match(found[0]):
        return f"holds the hidden character {code}, which turns the direction of text around"
    return f"holds the character {code}, so it was written or read in another encoding"


def misread(text: str) -> str:
    """The end of a sentence where the letters of a text are the UTF-8 bytes of another, as in 'CafÃ©'; else empty."""
    if text.isascii():
        return ""
    for encoding in ("cp1252", "latin-1"):
        try:
            meant = text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        return f"was written as UTF-8 and read in another encoding: {meant[:40]!r} was meant"
    return ""


def paragraph(text: str) -> str:
    """The text on one line."""
    return _SPACES.sub(" ", text).strip(" ")


def trimmed(text: str) -> str:
    """The text without white space around it; control characters are none."""
    return _AROUND.sub("", text)
