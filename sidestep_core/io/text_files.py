"""Text files as people's programs save them: UTF-8, or UTF-16 that begins with its mark; never guessed."""

from __future__ import annotations

import codecs
import stat
from pathlib import Path

from ..errors import DatasetError
from .text import BOM


def read_text(path: Path, largest: int | None = None) -> str:
    """A text file without its byte-order marks, also those of files that were joined to it; its lines end in \\n.

    Raises DatasetError when it is in another encoding, no text, or larger than `largest` bytes.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise DatasetError(f"{path.name} is no ordinary file. Rename it.")
        if largest is not None and facts.st_size > largest:
            raise DatasetError(f"{path.name} is {facts.st_size / 1e6:.1f} MB, too large for notes on a song (at most "
                               f"{largest / 1e6:.0f} MB). Shorten or rename it.")
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}.") from error
    try:
        text = content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DatasetError(f"{path.name} line {line} is not UTF-8 text. Save the file as UTF-8.") from error
    return require_text(text.replace(BOM, "").replace("\r\n", "\n").replace("\r", "\n"), path.name)


def require_text(text: str, file: str) -> str:
    """The text; DatasetError where it is the content of another kind of file."""
    if "\0" in text:
        raise DatasetError(f"{file} is no text: it holds NUL characters. Save it as UTF-8, or rename it.")
    return text


def encoding_of(content: bytes) -> str:
    """The encoding that the first bytes of a file state."""
    return "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8"
