"""What people write beside their songs, read without conversion.

Beside `song.mp3` may lie, from the weakest to the strongest where they contradict each other:

- `song.json`: one object with caption, lyrics, bpm, keyscale, timesignature, language, genre ...
- `song.txt` as `key: value` lines, lyrics last; or as `<CAPTION>...</CAPTION><LYRICS>...` tags; or as plain text
- `song.caption.txt`, `song_caption.txt`, `song_prompt.txt` or `song.caption`
- `song.lyrics.txt`, `song_lyrics.txt` or `song.lyrics`

Plain text in `song.txt` is lyrics when a line is a section marker such as [Verse], or when it has more than three
lines that are mostly (the median) no longer than 60 characters.  Else it is the caption.  If the song has a lyrics
file of its own it is always the caption, and with a caption file of its own always the lyrics.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

from .errors import DatasetError

CAPTION_FILES = (".caption", "_prompt.txt", "_caption.txt", ".caption.txt")
LYRICS_FILES = (".lyrics", "_lyrics.txt", ".lyrics.txt")
SIDECARS = (".json", ".txt", *CAPTION_FILES, *LYRICS_FILES)
"""What may follow a song's stem, in lower case."""


class Notes(TypedDict, total=False):
    """What one source says about a song; a missing key says nothing, so `weak | strong` merges two sources."""

    caption: str
    lyrics: str
    language: str
    bpm: int
    key: str
    signature: str
    genre: str
    tag: str


class Entry(NamedTuple):
    """One named value as found; `where` begins the message of an error about it."""

    name: str
    value: Any
    where: str


_TextField = Literal["caption", "lyrics", "language", "key", "signature", "genre", "tag"]
_Field = _TextField | Literal["bpm", "is_instrumental", "prompt_override"]
_FIELDS: dict[str, _Field] = {
    "caption": "caption",
    "lyrics": "lyrics",
    "language": "language", "lang": "language", "vocal_language": "language",
    "bpm": "bpm", "tempo": "bpm",
    "key": "key", "keyscale": "key", "key_scale": "key", "scale": "key",
    "signature": "signature", "timesignature": "signature", "time_signature": "signature", "sig": "signature",
    "genre": "genre", "genres": "genre", "tags": "genre",
    "tag": "tag", "custom_tag": "tag", "trigger": "tag", "trigger_word": "tag",
    "is_instrumental": "is_instrumental", "instrumental": "is_instrumental",
    "prompt_override": "prompt_override",
}  # fmt: skip
# Known too, so that they end a caption, but of no use here.
_UNUSED = {"duration", "repeat", "repeats"}
_UNKNOWN = {"", "n/a", "na", "none", "null", "unknown"}
_MAX_BPM = 999

_KEY_LINE = re.compile(r"\s*([A-Za-z][A-Za-z _-]*?)\s*:(.*)")
_SECTION_MARKER = re.compile(r"\s*\[[^\[\]]+\]\s*")
_TAG_NAMES = "|".join(sorted([*_FIELDS, *_UNUSED], key=len, reverse=True))
_TAGGED = re.compile(rf"<({_TAG_NAMES})>(.*?)(?=</\1>|<(?:{_TAG_NAMES})>|\Z)", re.IGNORECASE | re.DOTALL)
_LYRIC_LINES = 3
_LYRIC_LINE_LENGTH = 60


def notes_from(entries: Iterable[Entry]) -> Notes:
    """The usable part of a source; of two entries for one field the later counts, and empty ones say nothing.

    `is_instrumental` empties the lyrics, `prompt_override: genre` makes the genre the caption, other names are
    ignored.  Raises DatasetError where a value cannot be what its name says.
    """
    notes: Notes = {}
    override = ""
    instrumental = False
    for name, value, where in entries:
        field = _field(name)
        if field == "bpm":
            if bpm := _bpm(value, where):
                notes["bpm"] = bpm
        elif field == "is_instrumental":
            instrumental = _flag(value, where)
        elif field == "prompt_override":
            override = _text(value, where).lower()
        elif field is not None and (text := _text(value, where)):
            notes[field] = text.lower() if field == "language" else text
    if instrumental:
        notes["lyrics"] = ""
    if override == "genre" and "genre" in notes:
        notes["caption"] = notes["genre"]
    return notes


def read_sidecars(folder: Path, files: Mapping[str, str]) -> Notes:
    """What the files beside one song say; `files` maps each suffix of SIDECARS that exists to its file name.

    Raises DatasetError naming the file, and the line where it has one, when one cannot be read.
    """
    notes: Notes = {}
    if ".json" in files:
        path = folder / files[".json"]
        values = read_json(path)
        if not isinstance(values, dict):
            raise DatasetError(f"{path.name} must be a JSON object such as {{\"caption\": \"...\"}}.")
        notes |= notes_from(json_entries(values, path.name))
    captions = [_paragraph(read_text(folder / files[suffix])) for suffix in CAPTION_FILES if suffix in files]
    lyrics = [read_text(folder / files[suffix]).strip() for suffix in LYRICS_FILES if suffix in files]
    if ".txt" in files:
        path = folder / files[".txt"]
        plain = "caption" if any(lyrics) else "lyrics" if any(captions) else None
        notes |= notes_from(_text_entries(read_text(path), path.name, plain))
    notes |= notes_from(Entry("caption", text, "") for text in captions)
    notes |= notes_from(Entry("lyrics", text, "") for text in lyrics)
    return notes


def json_entries(values: Mapping[str, Any], where: str) -> list[Entry]:
    """The entries of a JSON object."""
    return [Entry(name, value, f"{where}: {name}") for name, value in values.items()]


def read_text(path: Path) -> str:
    """A UTF-8 text file, with or without a byte-order mark; raises DatasetError when it is in another encoding."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DatasetError(f"{path.name} line {line} is not UTF-8 text. Save the file as UTF-8.") from error
    except OSError as error:
        raise DatasetError(f"{path.name} cannot be read: {error.strerror}.") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises DatasetError naming the line that is no JSON."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path.name} line {error.lineno} is not valid JSON: {error.msg}. Correct it.") from error


def _text_entries(text: str, file: str, plain: str | None) -> list[Entry]:
    """The entries of a `song.txt`; `plain` says what text without keys is, None lets its look decide."""
    if text.lstrip().startswith("<") and (tagged := list(_TAGGED.finditer(text))):
        return [Entry(match[1], match[2].strip(), f"{file} <{match[1]}>") for match in tagged]
    lines = text.splitlines()
    first_key = next((number for number, line in enumerate(lines) if _key_of(line)), len(lines))
    head = lines[:first_key]
    look = "lyrics" if _look_like_lyrics(head) else "caption"
    if first_key == len(lines) or look == "lyrics":
        kind = plain or look
        return [Entry(kind, _paragraph(text) if kind == "caption" else text.strip(), file)]
    return [Entry("caption", _paragraph("\n".join(head)), file), *_keyed_entries(lines, first_key, file)]


def _keyed_entries(lines: list[str], start: int, file: str) -> Iterator[Entry]:
    """`key: value` lines.  A caption may run over several lines, and everything behind `lyrics:` is lyrics."""
    number = start
    while number < len(lines):
        line, where = lines[number], f"{file} line {number + 1}"
        number += 1
        key, _, value = line.partition(":")
        match _field(key):
            case "lyrics":
                yield Entry("lyrics", "\n".join([value, *lines[number:]]).strip(), where)
                return
            case "caption":
                following = number
                while following < len(lines) and not _key_of(lines[following]):
                    following += 1
                yield Entry("caption", _paragraph("\n".join([value, *lines[number:following]])), where)
                number = following
            case _ if _KEY_LINE.fullmatch(line):
                yield Entry(key, value.strip(), where)
            case _ if line.strip() and not _is_comment(line):
                raise DatasetError(f"{where} is not 'key: value': {line.strip()[:60]!r}. Put it behind a key.")


def _key_of(line: str) -> str:
    """The known key that a line begins with, or ''."""
    match = _KEY_LINE.fullmatch(line)
    name = _plain_name(match[1]) if match else ""
    return name if name in _FIELDS or name in _UNUSED else ""


def _plain_name(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _field(name: str) -> _Field | None:
    return _FIELDS.get(_plain_name(name))


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _paragraph(text: str) -> str:
    """A caption is one paragraph, however its lines were broken; lines that begin with # are comments."""
    return " ".join(word for line in text.splitlines() if not _is_comment(line) for word in line.split())


def _look_like_lyrics(lines: list[str]) -> bool:
    written = [line.strip() for line in lines if line.strip() and not _is_comment(line)]
    if any(_SECTION_MARKER.fullmatch(line) for line in written):
        return True
    return len(written) > _LYRIC_LINES and statistics.median(map(len, written)) <= _LYRIC_LINE_LENGTH


def _text(value: Any, where: str) -> str:
    """A value as text; '' where it says nothing, in any of the usual ways."""
    match value:
        case None:
            return ""
        case str():
            text = value.strip()
        case int() | float() if not isinstance(value, bool):
            text = str(value)
        case list() if all(isinstance(item, str) for item in value):
            text = ", ".join(value)
        case _:
            raise DatasetError(f"{where} must be text, got {value!r}.")
    return "" if text.lower() in _UNKNOWN else text


def _bpm(value: Any, where: str) -> int:
    """Beats per minute, rounded; 0 where they are not stated."""
    text = _text(value, where).lower().removesuffix("bpm").strip()
    try:
        bpm = round(float(text or 0))
    except (ValueError, OverflowError) as error:
        raise DatasetError(f"{where} must be beats per minute such as 120, got {value!r}.") from error
    if not 0 <= bpm <= _MAX_BPM:
        raise DatasetError(f"{where} must be beats per minute from 1 to {_MAX_BPM}, got {value!r}.")
    return bpm


def _flag(value: Any, where: str) -> bool:
    text = str(value).lower() if isinstance(value, bool) else _text(value, where).lower()
    if text in {"true", "yes", "1"}:
        return True
    if text in {"false", "no", "0", ""}:
        return False
    raise DatasetError(f"{where} must be true or false, got {value!r}.")
