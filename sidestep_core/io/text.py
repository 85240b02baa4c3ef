"""Text files, and the characters of a text.

Files are UTF-8, or UTF-16 with a byte-order mark; encodings are never guessed.  Characters that nobody types (controls,
direction overrides, replacement characters) show that a text was decoded wrongly.  Joiners of emoji and Persian,
combining marks and the marks U+200E and U+200F of right-to-left scripts are valid.
"""

from __future__ import annotations

import codecs
import re
import stat
from pathlib import Path

from ..errors import DatasetError

BOM = "\ufeff"
_CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_DIRECTION = "\u202a-\u202e\u2066-\u2069"
_BAD = re.compile(f"[{_CONTROL}{_DIRECTION}\ufffd-\uffff]")
_OVERRIDE = re.compile(f"[{_DIRECTION}]")
_SPACE = r"[^\S\x0b\x0c\x1c-\x1f\x85]"
_SPACES = re.compile(f"{_SPACE}+")
_AROUND = re.compile(rf"\A{_SPACE}+|{_SPACE}+\Z")


def read_text(path: Path, max_bytes: int | None = None) -> str:
    """Read a text file without byte-order marks, line ends as \\n.

    DatasetError when it is in another encoding, not text, or larger than `max_bytes`.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise DatasetError(f"{path.name} is no ordinary file. Rename it.")
        if max_bytes is not None and facts.st_size > max_bytes:
            raise DatasetError(f"{path.name} is {facts.st_size / 1e6:.1f} MB, too large for notes on a song (at most "
                               f"{max_bytes / 1e6:.0f} MB). Shorten or rename it.")
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}.") from error
    try:
        text = content.decode(detect_encoding(content))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DatasetError(f"{path.name} line {line} is not UTF-8 text. Save the file as UTF-8.") from error
    # Files that were joined have a mark in the middle.
    return require_text(text.replace(BOM, "").replace("\r\n", "\n").replace("\r", "\n"), path.name)


def require_text(text: str, file: str) -> str:
    """Return the text; DatasetError if it holds NUL characters, so is the content of a binary file."""
    if "\0" in text:
        raise DatasetError(f"{file} is no text: it holds NUL characters. Save it as UTF-8, or rename it.")
    return text


def detect_encoding(content: bytes) -> str:
    """Return the encoding that the byte-order mark states; UTF-8 without one."""
    return "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"


def bad_character(text: str) -> str:
    """Describe the first bad character, as the end of a sentence; empty if there is none."""
    found = _BAD.search(text)
    if found is None:
        return ""
    code = f"U+{ord(found[0]):04X}"
    if _OVERRIDE.match(found[0]):
        return f"holds the hidden character {code}, which turns the direction of text around"
    return f"holds the character {code}, so it was written or read in another encoding"


def mojibake(text: str) -> str:
    """Describe UTF-8 that was decoded as another encoding, such as 'CafÃ©', as the end of a sentence; else empty."""
    if text.isascii():
        return ""
    for encoding in ("cp1252", "latin-1"):
        try:
            meant = text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
        return f"was written as UTF-8 and read in another encoding: {meant[:40]!r} was meant"
    return ""


def single_line(text: str) -> str:
    """Join the text to one line."""
    return _SPACES.sub(" ", text).strip(" ")


def strip_spaces(text: str) -> str:
    """Strip white space; unlike str.strip, keep control characters."""
    return _AROUND.sub("", text)
