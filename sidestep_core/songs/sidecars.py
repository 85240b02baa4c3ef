"""Sidecars: text files next to a song with its metadata, in the forms that people already have.

Files next to `song.mp3`, from the weakest to the strongest where they differ:

- `song.json`: one object with caption, lyrics, bpm, keyscale, timesignature, language, genre ...
- `song.txt` as `key: value` lines, lyrics last; or as `<CAPTION>...</CAPTION><LYRICS>...` tags; or as plain text
- `song.caption.txt`, `song_caption.txt`, `song_prompt.txt` or `song.caption`; `song.captions.txt` with one on each line
- `song.lyrics.txt`, `song_lyrics.txt` or `song.lyrics`; `song.lrc` with times

Plain text in `song.txt` is lyrics if a line is a section marker such as [Verse], or if it has more than three lines of
at most 60 characters (median); else the caption.  Next to a lyrics file it is always the caption, next to a caption
file always the lyrics.  Lyrics end at keys behind an empty line that nobody would sing.  A file of one field may begin
with a key too.  Lines that begin with # are comments, unless they are only a key, such as # Caption, its heading.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from ..errors import DatasetError
from ..io import strict_json
from ..io.text import read_text, require_text, single_line, strip_spaces
from .key_lines import is_fence, key_line
from .lyrics import MARKER
from .metadata import (
    NAMES,
    Entry,
    Field,
    Remarks,
    SongMetadata,
    field_of,
    is_weak,
    json_entries,
    parse_entries,
    plain_name,
)

JSON_FILE, TEXT_FILE = ".json", ".txt"
CAPTION_FILES = (".caption", "_prompt.txt", "_caption.txt", ".caption.txt")
LYRICS_FILES = (".lyrics", "_lyrics.txt", ".lyrics.txt", ".lrc")
OWN_FILES: Mapping[Field, Sequence[str]] = {"caption": CAPTION_FILES, "lyrics": LYRICS_FILES}
"""Files that hold one field only, from the weakest to the strongest."""
OF_ONE_FIELD: Mapping[str, Field] = {suffix: field for field, suffixes in OWN_FILES.items() for suffix in suffixes}
CAPTIONS_FILE = ".captions.txt"
SIDECARS = (JSON_FILE, TEXT_FILE, *OF_ONE_FIELD, CAPTIONS_FILE)
"""Suffixes of sidecars after the song's stem, in lower case."""
LARGEST = 1 << 20
"""Most bytes of a sidecar; the lyrics of a song take a few thousand."""

_UNUSED = {"duration"}  # keys that end a caption, but are not metadata
_TAG_NAMES = "|".join(sorted([*NAMES, *_UNUSED], key=len, reverse=True))
_TAGGED = re.compile(rf"<({_TAG_NAMES})>(.*?)(?:</\1>|(?=<(?:{_TAG_NAMES})>)|\Z)", re.IGNORECASE | re.DOTALL)
_LYRIC_LINES = 3
_LYRIC_LINE_LENGTH = 60
_NEVER_SUNG: frozenset[Field] = frozenset({"bpm", "instrumental", "repeats", "prompt_override", "trigger_position"})
_UNKNOWN_KEY_WORDS = 2


class SidecarText(NamedTuple):
    """File name and content of a sidecar."""

    file: str
    text: str


Sidecars = Mapping[str, SidecarText]
"""Sidecars of one song, by their suffix in SIDECARS."""


class Part(NamedTuple):
    """Entry in a stretch of a text."""

    entry: Entry
    start: int
    stop: int
    look: Literal["plain", "line", "tag"]


def read_sidecars(folder: Path, files: Mapping[str, str]) -> Sidecars:
    """Read the sidecars of one song; `files` maps each suffix of SIDECARS that exists to its file name.

    Raises DatasetError naming the file when one cannot be read.
    """
    return {suffix: SidecarText(file, read_text(folder / file, LARGEST)) for suffix, file in files.items()}


def parse_sidecars(sidecars: Sidecars, remarks: Remarks | None = None) -> SongMetadata:
    """Parse the sidecars of one song; `remarks` gets a sentence about every value that is not used.

    Raises DatasetError with the file, and the line if any, for an invalid value.
    """
    entries: list[Entry] = []
    if JSON_FILE in sidecars:
        entries += json_entries(json_object(sidecars[JSON_FILE]), sidecars[JSON_FILE].file)
    for suffix in SIDECARS[1:]:
        entries += [part.entry for part in parts(sidecars, suffix)]
    return parse_entries(entries, remarks)


def parts(sidecars: Sidecars, suffix: str) -> list[Part]:
    """Parse a text sidecar into parts; caption and lyrics files settle the meaning of plain text in `song.txt`."""
    if suffix not in sidecars:
        return []
    sidecar = sidecars[suffix]
    if suffix == CAPTIONS_FILE:
        lines = [line for line in require_text(sidecar.text, sidecar.file).split("\n") if not _is_comment(line)]
        return [Part(Entry("captions", "\n".join(lines), sidecar.file), 0, len(sidecar.text), "plain")]
    if suffix in OF_ONE_FIELD:
        return list(_parts_of_one(OF_ONE_FIELD[suffix], sidecar))

    def spoken(field: Field) -> bool:
        return any(part.entry.value for own in OWN_FILES[field] for part in parts(sidecars, own)
                   if field_of(part.entry.name) == field)

    return list(_parts(sidecar, "caption" if spoken("lyrics") else "lyrics" if spoken("caption") else None))


def parse_text(text: str, where: str, remarks: Remarks | None = None) -> SongMetadata:
    """Parse a text in any form of `song.txt`; without keys and tags it is a caption.

    Raises DatasetError, which begins with `where`, for an invalid value.
    """
    sidecar = SidecarText(where, text.replace("\r\n", "\n"))
    return parse_entries((part.entry for part in _parts(sidecar, "caption")), remarks)


def json_object(sidecar: SidecarText) -> dict[str, Any]:
    """Parse the object in a `song.json`."""
    values = parse_json(sidecar)
    if not isinstance(values, dict):
        raise DatasetError(f"{sidecar.file} must be a JSON object such as {{\"caption\": \"...\"}}.")
    return values


def parse_json(sidecar: SidecarText) -> Any:
    """Parse a JSON file; raises DatasetError with the line that is not JSON."""
    try:
        # Half a character costs only the song whose text it is in.
        return strict_json.loads(sidecar.text, sidecar.file, unique=field_of, unicode=False)
    except strict_json.BadJson as error:
        raise DatasetError(f"{error} Correct it.") from error


def asides(text: str) -> str:
    """Comments and empty lines of a text."""
    return "".join(f"{line}\n" for line in text.removesuffix("\n").split("\n") if _is_comment(line) or not line.strip())


def _parts_of_one(field: Field, sidecar: SidecarText) -> Iterator[Part]:
    """Parse a file of one field, which may have keys nevertheless."""
    text = require_text(sidecar.text, sidecar.file)
    lines = text.split("\n")
    first = next((line for line in lines if line.strip() and not _is_comment(line)), "")
    if _is_note(first) or _TAGGED.match(first):
        yield from _parts(sidecar, cast("Literal['caption', 'lyrics']", field))
    elif value := _without_comments(lines) if field == "caption" else _sung(lines):
        yield Part(Entry(field, value, sidecar.file), 0, len(text), "plain")


def _parts(sidecar: SidecarText, plain: Literal["caption", "lyrics"] | None) -> Iterator[Part]:
    """Parse a `song.txt`; `plain` is the field of text without keys, None decides by its look."""
    file, text = sidecar.file, require_text(sidecar.text, sidecar.file)
    tagged = list(_TAGGED.finditer(text)) if "<" in text else []
    if tagged and (text.lstrip().startswith("<") or f"</{tagged[0][1]}>" in text):
        yield from _tags(tagged, text, file)
        return
    lines = text.split("\n")
    ends = [0, *accumulate(len(line) + 1 for line in lines)]
    first_key = next((number for number, line in enumerate(lines) if _known(line)), len(lines))
    head = lines[:first_key]
    look: Field = "lyrics" if _look_like_lyrics(head) else "caption"
    if first_key == len(lines) or look == "lyrics":
        kind = plain or look
        below = _end_of_lyrics(lines, 0) if kind == "lyrics" else len(lines)
        if value := _without_comments(lines) if kind == "caption" else _sung(lines[:below]):
            yield Part(Entry(kind, value, file), 0, min(ends[below], len(text)), "plain")
        yield from _lines(lines, below, file)
        return
    written = [line for line in head if line.strip() and not _is_comment(line)]
    if all(_may_be_key(line) for line in written):
        first_key = 0
    elif caption := _without_comments(head):
        yield Part(Entry("caption", caption, file), 0, ends[first_key], "plain")
    yield from _lines(lines, first_key, file)


def _tags(tagged: Sequence[re.Match[str]], text: str, file: str) -> Iterator[Part]:
    for match in tagged:
        yield Part(Entry(match[1], strip_spaces(match[2]), f"{file} <{match[1]}>"), match.start(), match.end(), "tag")
    for start, stop in zip([0, *(match.end() for match in tagged)], [*(match.start() for match in tagged), len(text)],
                           strict=True):
        if words := strip_spaces(text[start:stop]):
            yield Part(Entry("text outside the tags", words, file), start, stop, "tag")


def _lines(lines: Sequence[str], number: int, file: str) -> Iterator[Part]:
    """Parse `key: value` lines.  A value may begin below its key; a caption ends at the next key, lyrics at the end or
    at keys that nobody would sing."""
    ends = [0, *accumulate(len(line) + 1 for line in lines)]
    while number < len(lines):
        where = f"{file} line {number + 1}"
        key = key_line(lines[number])
        following = number + 1
        if key is None or (key.heading and _is_comment(lines[number]) and not _known(lines[number])):
            if lines[number].strip() and not _is_comment(lines[number]):
                raise DatasetError(f"{where} is not 'key: value': {lines[number].strip()[:60]!r}. Put it behind a key.")
        else:
            field, value = field_of(key.name), key.value
            if field == "lyrics":
                following = _end_of_lyrics(lines, following)
                value = _sung([value, *lines[number + 1:following]])
            elif field == "caption" or not value.strip():
                following = _end_of_value(lines, following, field)
                value = single_line(f"{value} {_without_comments(lines[number + 1:following])}")
            yield Part(Entry(key.name.strip(), strip_spaces(value), where), ends[number], ends[following], "line")
        number = following


def _end_of_value(lines: Sequence[str], start: int, field: Field | None) -> int:
    """Find the end of a value: of a caption at a known key, of another field at an empty line, comment or key, too."""
    for number in range(start, len(lines)):
        line = lines[number]
        if _known(line) or (field != "caption" and (not line.strip() or _is_comment(line) or key_line(line))):
            return number
    return len(lines)


def _end_of_lyrics(lines: Sequence[str], start: int) -> int:
    """Find the end of lyrics: a known heading behind an empty line, or a last block of keys only, one of which nobody
    would sing."""
    after_gap = [number for number in range(start + 1, len(lines)) if not lines[number - 1].strip()]
    heading = next((number for number in after_gap if _known(lines[number]) and _known_heading(lines[number])), None)
    if heading is not None:
        return heading
    last = len(lines)
    while last > start and (not lines[last - 1].strip() or _is_comment(lines[last - 1]) or _known(lines[last - 1])):
        last -= 1
    first = next((number for number in after_gap if number >= last and _known(lines[number])), len(lines))
    return first if any(_is_note(line) for line in lines[first:]) else len(lines)


def _is_note(line: str) -> bool:
    """True if a line is metadata that nobody would sing."""
    key = key_line(line)
    field = field_of(key.name) if key else None
    if key is None or field is None:
        return False
    if field in OWN_FILES and not is_weak(key.name):
        return True
    try:
        return field in _NEVER_SUNG and bool(parse_entries([Entry(key.name, key.value, "")]))
    except DatasetError:
        return False


def _known(line: str) -> str:
    """Known key at the beginning of a line, or ''."""
    key = key_line(line)
    name = plain_name(key.name) if key else ""
    return name if name in NAMES or name in _UNUSED else ""


def _known_heading(line: str) -> bool:
    key = key_line(line)
    return key is not None and key.heading


def _may_be_key(line: str) -> bool:
    """True if a line looks like an unknown key."""
    key = key_line(line)
    return key is not None and len(key.name.split()) <= _UNKNOWN_KEY_WORDS and bool(key.value.strip())


def _is_comment(line: str) -> bool:
    return (line.lstrip().startswith("#") and not _known(line)) or is_fence(line)


def _without_comments(lines: Sequence[str]) -> str:
    """Join the lines of a caption into one paragraph, without comments."""
    return single_line(" ".join(line for line in lines if not _is_comment(line)))


def _sung(lines: Sequence[str]) -> str:
    return strip_spaces("\n".join(line for line in lines if not is_fence(line)))


def _look_like_lyrics(lines: Sequence[str]) -> bool:
    written = [line.strip() for line in lines if line.strip() and not _is_comment(line)]
    if any(MARKER.fullmatch(line) for line in written):
        return True
    return len(written) > _LYRIC_LINES and statistics.median(map(len, written)) <= _LYRIC_LINE_LENGTH
