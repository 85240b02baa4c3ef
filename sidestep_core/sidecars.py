"""What people write beside their songs, read without conversion.

Beside `song.mp3` may lie, from the weakest to the strongest where they contradict each other:

- `song.json`: one object with caption, lyrics, bpm, keyscale, timesignature, language, genre ...
- `song.txt` as `key: value` lines, lyrics last; or as `<CAPTION>...</CAPTION><LYRICS>...` tags; or as plain text
- `song.caption.txt`, `song_caption.txt`, `song_prompt.txt` or `song.caption`
- `song.lyrics.txt`, `song_lyrics.txt` or `song.lyrics`

Plain text in `song.txt` is lyrics when a line is a section marker such as [Verse], or when it has more than three
lines that are mostly (the median) no longer than 60 characters.  Else it is the caption.  If the song has a lyrics
file of its own it is always the caption, and with a caption file of its own always the lyrics.

Lines that begin with # are comments, never a caption.
"""

from __future__ import annotations

import json
import re
import stat
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .errors import DatasetError
from .lyric_parts import MARKER
from .notes import NAMES, Entry, Field, Notes, field_of, json_entries, notes_from, paragraph, plain_name

JSON_FILE, TEXT_FILE = ".json", ".txt"
CAPTION_FILES = (".caption", "_prompt.txt", "_caption.txt", ".caption.txt")
LYRICS_FILES = (".lyrics", "_lyrics.txt", ".lyrics.txt")
OWN_FILES: Mapping[Field, Sequence[str]] = {"caption": CAPTION_FILES, "lyrics": LYRICS_FILES}
"""Files that hold one field only, from the weakest to the strongest."""
SIDECARS = (JSON_FILE, TEXT_FILE, *CAPTION_FILES, *LYRICS_FILES)
"""What may follow a song's stem, in lower case."""
LARGEST = 1 << 20
"""Bytes of a sidecar; a song's whole lyrics take a few thousand."""

# Known too, so that they end a caption, but of no use here.
_UNUSED = {"duration"}
_LONGEST_NAME = 40
_NAME = re.compile(r"[A-Za-z][A-Za-z _-]*")
_TAG_NAMES = "|".join(sorted([*NAMES, *_UNUSED], key=len, reverse=True))
_TAGGED = re.compile(rf"<({_TAG_NAMES})>(.*?)(?:</\1>|(?=<(?:{_TAG_NAMES})>)|\Z)", re.IGNORECASE | re.DOTALL)
_LYRIC_LINES = 3
_LYRIC_LINE_LENGTH = 60


class SidecarText(NamedTuple):
    """A sidecar's file name and what is in it."""

    file: str
    text: str


Sidecars = Mapping[str, SidecarText]
"""The files beside one song, by their suffix of SIDECARS."""


class Part(NamedTuple):
    """What a stretch of a text says."""

    entry: Entry
    start: int
    stop: int
    look: Literal["plain", "line", "tag"]


def read_sidecars(folder: Path, files: Mapping[str, str]) -> Sidecars:
    """The files beside one song; `files` maps each suffix of SIDECARS that exists to its file name.

    Raises DatasetError naming the file when one cannot be read.
    """
    return {suffix: SidecarText(file, read_text(folder / file, LARGEST)) for suffix, file in files.items()}


def notes_in(sidecars: Sidecars, remarks: list[str] | None = None) -> Notes:
    """What the files beside one song say; `remarks` gets a sentence about each contradiction.

    Raises DatasetError naming the file, and the line where it has one, when one is not what its name says.
    """
    entries: list[Entry] = []
    if JSON_FILE in sidecars:
        entries += json_entries(json_object(sidecars[JSON_FILE]), sidecars[JSON_FILE].file)
    if TEXT_FILE in sidecars:
        entries += [part.entry for part in parts(sidecars)]
    for field, suffixes in OWN_FILES.items():
        entries += [Entry(field, _own(field, sidecars[suffix]), sidecars[suffix].file)
                    for suffix in suffixes if suffix in sidecars]
    return notes_from(entries, remarks)


def parts(sidecars: Sidecars) -> list[Part]:
    """What each stretch of `song.txt` says, which the files beside it have a say in."""
    def spoken(field: Field) -> bool:
        return any(_own(field, sidecars[suffix]) for suffix in OWN_FILES[field] if suffix in sidecars)

    return list(_parts(sidecars[TEXT_FILE], "caption" if spoken("lyrics") else "lyrics" if spoken("caption") else None))


def notes_in_text(text: str, where: str) -> Notes:
    """What a text of any dialect of `song.txt` says; one without keys and tags is a caption.

    Raises DatasetError, which begins with `where`, for what cannot be what it says.
    """
    return notes_from(part.entry for part in _parts(SidecarText(where, text.replace("\r\n", "\n")), "caption"))


def json_object(sidecar: SidecarText) -> dict[str, Any]:
    """The object in a `song.json`."""
    values = parse_json(sidecar)
    if not isinstance(values, dict):
        raise DatasetError(f"{sidecar.file} must be a JSON object such as {{\"caption\": \"...\"}}.")
    return values


def read_text(path: Path, largest: int | None = None) -> str:
    """A UTF-8 text file, with or without a byte-order mark; DatasetError when it is in another encoding, or too large.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise DatasetError(f"{path.name} is no ordinary file. Rename it.")
        if largest is not None and facts.st_size > largest:
            raise DatasetError(f"{path.name} is {facts.st_size / 1e6:.1f} MB, too large for notes on a song (at most "
                               f"{largest / 1e6:.0f} MB). Shorten or rename it.")
        return _as_text(SidecarText(path.name, path.read_text(encoding="utf-8-sig")))
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DatasetError(f"{path.name} line {line} is not UTF-8 text. Save the file as UTF-8.") from error
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}.") from error


def parse_json(sidecar: SidecarText) -> Any:
    """The content of a JSON file; raises DatasetError naming the line that is no JSON."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(name for name, _ in pairs)
        if twice := sorted(name for name, count in counts.items() if count > 1 and field_of(name)):
            raise DatasetError(f"{sidecar.file} says {', '.join(twice)} twice. Remove one of them.")
        return dict(pairs)

    try:
        return json.loads(sidecar.text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{sidecar.file} line {error.lineno} is not valid JSON: {error.msg}. Correct it.") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{sidecar.file} is not usable JSON: {error}. Correct it.") from error


def asides(text: str) -> str:
    """The comments and empty lines of a text."""
    return "".join(f"{line}\n" for line in text.removesuffix("\n").split("\n") if _is_comment(line) or not line.strip())


def _as_text(sidecar: SidecarText) -> str:
    if "\0" in sidecar.text:
        raise DatasetError(f"{sidecar.file} is no text: it holds NUL characters. Save it as UTF-8, or rename it.")
    return sidecar.text


def _own(field: Field, sidecar: SidecarText) -> str:
    """What a file of one field says."""
    text = _as_text(sidecar)
    return _without_comments(text.split("\n")) if field == "caption" else text.strip()


def _parts(sidecar: SidecarText, plain: Literal["caption", "lyrics"] | None) -> Iterator[Part]:
    """The parts of a `song.txt`; `plain` says what text without keys is, None lets its look decide."""
    file, text = sidecar.file, _as_text(sidecar)
    if text.lstrip().startswith("<") and (tagged := list(_TAGGED.finditer(text))):
        for match in tagged:
            yield Part(Entry(match[1], match[2].strip(), f"{file} <{match[1]}>"), match.start(), match.end(), "tag")
        return
    lines = text.split("\n")
    first_key = next((number for number, line in enumerate(lines) if _key_of(line)), len(lines))
    head = lines[:first_key]
    look: Field = "lyrics" if _look_like_lyrics(head) else "caption"
    if first_key == len(lines) or look == "lyrics":
        kind = plain or look
        if value := _without_comments(lines) if kind == "caption" else text.strip():
            yield Part(Entry(kind, value, file), 0, len(text), "plain")
        return
    if caption := _without_comments(head):
        yield Part(Entry("caption", caption, file), 0, sum(len(line) + 1 for line in head), "plain")
    yield from _lines(lines, first_key, file)


def _lines(lines: Sequence[str], number: int, file: str) -> Iterator[Part]:
    """`key: value` lines.  A caption may run over several lines, and everything behind `lyrics:` is lyrics."""
    ends = [0, *accumulate(len(line) + 1 for line in lines)]
    while number < len(lines):
        where = f"{file} line {number + 1}"
        key, colon, value = lines[number].partition(":")
        following = number + 1
        if not (colon and _is_name(key)):
            if lines[number].strip() and not _is_comment(lines[number]):
                raise DatasetError(f"{where} is not 'key: value': {lines[number].strip()[:60]!r}. Put it behind a key.")
        else:
            if field_of(key) == "lyrics":
                following = len(lines)
                value = "\n".join([value, *lines[number + 1:]])
            elif field_of(key) == "caption":
                while following < len(lines) and not _key_of(lines[following]):
                    following += 1
                value = paragraph(f"{value} {_without_comments(lines[number + 1:following])}")
            yield Part(Entry(key.strip(), value.strip(), where), ends[number], ends[following], "line")
        number = following


def _is_name(text: str) -> bool:
    return len(text) <= _LONGEST_NAME and _NAME.fullmatch(text.strip()) is not None


def _key_of(line: str) -> str:
    """The known key that a line begins with, or ''."""
    key, colon, _ = line.partition(":")
    name = plain_name(key) if colon and _is_name(key) else ""
    return name if name in NAMES or name in _UNUSED else ""


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _without_comments(lines: Sequence[str]) -> str:
    """A caption is one paragraph, however its lines were broken."""
    return paragraph(" ".join(line for line in lines if not _is_comment(line)))


def _look_like_lyrics(lines: Sequence[str]) -> bool:
    written = [line.strip() for line in lines if line.strip() and not _is_comment(line)]
    if any(MARKER.fullmatch(line) for line in written):
        return True
    return len(written) > _LYRIC_LINES and statistics.median(map(len, written)) <= _LYRIC_LINE_LENGTH
