"""Metadata of a song: the names that people use for its fields, and the values of each.

Values are kept as typed, except that every text other than lyrics becomes one paragraph with single spaces, lyrics have
line feeds and no white space around them, and a placeholder such as n/a or unknown is no value.  A text with an
illegible character is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypedDict, cast, get_args

from ..config import TriggerPosition
from ..errors import DatasetError
from ..io.text import BOM, bad_character, mojibake, single_line, strip_spaces
from .key_lines import key_line
from .lyrics import MARKER

PromptOverride = Literal["", "caption", "genre"]


class SongMetadata(TypedDict, total=False):
    """Metadata of a song from one source or several; fields without a value are missing."""

    caption: str
    captions: tuple[str, ...]
    lyrics: str
    language: str
    bpm: int | None
    key: str
    signature: str
    genre: str
    trigger_word: str
    trigger_position: TriggerPosition | None
    prompt_override: PromptOverride
    instrumental: bool
    repeats: int


class Entry(NamedTuple):
    """Named value as found; `where` begins the message of an error about it."""

    name: str
    value: Any
    where: str


Field = Literal["caption", "captions", "lyrics", "language", "bpm", "key", "signature", "genre", "trigger_word",
                "trigger_position", "prompt_override", "instrumental", "repeats"]
NAMES: dict[str, Field] = {
    "caption": "caption", "prompt": "caption", "text": "caption", "description": "caption",
    "captions": "captions",
    "lyrics": "lyrics", "lyric": "lyrics", "raw_lyrics": "lyrics", "formatted_lyrics": "lyrics",
    "language": "language", "lang": "language", "vocal_language": "language",
    "bpm": "bpm", "tempo": "bpm",
    "key": "key", "keyscale": "key", "key_scale": "key", "scale": "key", "musical_key": "key",
    "signature": "signature", "timesignature": "signature", "time_signature": "signature", "sig": "signature",
    "genre": "genre", "genres": "genre", "tags": "genre", "style": "genre", "styles": "genre",
    "tag": "trigger_word", "custom_tag": "trigger_word", "trigger": "trigger_word", "trigger_word": "trigger_word",
    "trigger_words": "trigger_word", "tag_position": "trigger_position", "trigger_position": "trigger_position",
    "prompt_override": "prompt_override",
    "instrumental": "instrumental", "is_instrumental": "instrumental",
    "repeats": "repeats", "repeat": "repeats",
    "\u63cf\u8ff0": "caption", "\u63d0\u793a\u8bcd": "caption", "\u6b4c\u8bcd": "lyrics", "\u6b4c\u8a5e": "lyrics",
    "\u98ce\u683c": "genre", "\u98a8\u683c": "genre", "\u8bed\u8a00": "language", "\u8a9e\u8a00": "language",
}  # fmt: skip
"""Name in lower case and with underscores -> field; of Chinese names the usual."""
_WEAK = {"prompt", "text", "description", "raw_lyrics", "formatted_lyrics", "style", "styles"}
"""Names of other programs for a field, or for something like it; used where no other name is there."""
NOT_METADATA = {"duration", "id", "labeled", "song", "start", "stop", "file", "filename", "file_name", "path", "audio",
            "audio_path", "audio_file", "audio_filepath"}
"""Names of values that are read elsewhere or measured."""
_NOTHING = {"", "n/a", "na", "none", "null", "unknown"}
_MAX_BPM = 999
_MAX_REPEATS = 1000
_MAX_CAPTIONS = 100
QUOTED = 100
"""Characters of a wrong value in a message."""


def field_of(name: str) -> Field | None:
    """Field of a name in any spelling."""
    return NAMES.get(plain_name(name))


def plain_name(name: str) -> str:
    """Convert a name to lower case with underscores."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


@dataclass(frozen=True, kw_only=True)
class Remarks:
    """Sentences for the person about metadata that was read, and values under unknown names."""

    sentences: list[str] = field(default_factory=list)
    unknown: list[Entry] = field(default_factory=list)


class IllegibleText(DatasetError):
    """Text with characters that nobody typed."""


def parse_entries(entries: Iterable[Entry], remarks: Remarks | None = None) -> SongMetadata:
    """Parse the entries of one source; unknown names, illegible texts and empty values are left out.

    Of two entries for one field the later counts, or the one under the field's own name; `remarks` gets a sentence
    where they differ and about every text that is not used.  Raises DatasetError for an invalid value.
    """
    remarks = Remarks() if remarks is None else remarks
    parsed: dict[Field, tuple[Any, bool]] = {}
    for name, value, where in entries:
        field, weak = field_of(name), is_weak(name)
        if field is None:
            ignored = plain_name(name) in NOT_METADATA and not isinstance(value, (dict, list))
            if not ignored and value not in (None, "", [], {}):
                remarks.unknown.append(Entry(name, value, where))
            continue
        try:
            parsed_value = _PARSERS[field](value, where)
        except IllegibleText as error:
            remarks.sentences.append(f"{error} It is not used.")
            continue
        if parsed_value is None:
            continue
        if weak and field == "caption" and has_markers(value):
            remarks.sentences.append(f"{where} holds lyrics, so it is not used as the caption. Call it lyrics.")
            continue
        old, old_weak = parsed.get(field, (parsed_value, True))
        loses = weak and not old_weak
        if old != parsed_value:
            counts = f"which does not count; {field} is" if loses else f"which counts; before, {field} was"
            remarks.sentences.append(f"{where} says {parsed_value!r:.{QUOTED}}, {counts} {old!r:.{QUOTED}}. Remove "
                                     "one of them.")
        if not loses:
            parsed[field] = (parsed_value, weak)
            if field == "lyrics":
                remarks.sentences.extend(_keys_in_lyrics(parsed_value, where))
    return cast("SongMetadata", {field: value for field, (value, _) in parsed.items()})


def is_weak(name: str) -> bool:
    """True if a name counts only where none of the field's own names is there."""
    return plain_name(name) in _WEAK


def has_markers(value: Any) -> bool:
    """True if a text has several lines, one of them a section marker such as [Verse]."""
    lines = value.strip().splitlines() if isinstance(value, str) else []
    return len(lines) > 1 and any(MARKER.fullmatch(line) for line in lines)


def _keys_in_lyrics(lyrics: str, where: str) -> list[str]:
    """Sentence about lines of lyrics that begin with a key, if any."""
    found = [line.strip() for line in lyrics.split("\n") if (key := key_line(line)) and field_of(key.name)]
    more = f" and {len(found) - 1} more such" if len(found) > 1 else ""
    return [f"{where} has the line {found[0]!r:.{QUOTED}}{more} in its lyrics, which is sung. If it is none of them, "
            "put it above the lyrics."] if found else []


def validated(metadata: SongMetadata) -> Mapping[Field, Any]:
    """Normalize each value; an empty one becomes None, which removes the field.

    Raises DatasetError for an invalid value.
    """
    return {cast("Field", field): _PARSERS[cast("Field", field)](value, field) for field, value in metadata.items()}


class Source(NamedTuple):
    """Metadata of a song from one place: a list, its sidecars, or the tags of its file."""

    where: str
    metadata: SongMetadata


def merge(sources: Iterable[Source]) -> SongMetadata:
    """Merge the sources of a song, from the weakest to the strongest.

    Lyrics of one source are not silenced by a weaker one that calls the song instrumental.
    """
    merged: SongMetadata = {}
    for _, metadata in sources:
        merged |= metadata
        if metadata.get("lyrics") and "instrumental" not in metadata:
            merged.pop("instrumental", None)
    return merged


def json_entries(values: Mapping[str, Any], where: str) -> list[Entry]:
    """Make the entries of a JSON object."""
    return [Entry(name, value, f"{where}: {name}") for name, value in values.items()]


def _text(value: Any, where: str) -> str:
    """Convert a value to text; '' for none and for the usual placeholders."""
    match value:
        case None:
            return ""
        case str():
            text = value
        case int() | float() if not isinstance(value, bool):
            text = str(value)
        case list() if all(isinstance(item, str) for item in value):
            text = ", ".join(value)
        case _:
            raise DatasetError(f"{where} must be text, got {value!r:.{QUOTED}}.")
    if text != text.encode("utf-8", "replace").decode():
        raise DatasetError(f"{where} is not valid Unicode. Write it again.")
    if wrong := bad_character(text) or mojibake(text):
        raise IllegibleText(f"{where} {wrong}.")
    text = strip_spaces(text.replace(BOM, ""))
    return "" if text.lower() in _NOTHING else text


def _line(value: Any, where: str) -> str | None:
    return single_line(_text(value, where)) or None


def _captions(value: Any, where: str) -> tuple[str, ...] | None:
    """Parse captions in a list, or one on each line of a text; each counts once."""
    listed = value.splitlines() if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    found = tuple(dict.fromkeys(line for one in listed if (line := _line(one, where))))
    if len(found) > _MAX_CAPTIONS:
        raise DatasetError(f"{where} has {len(found)} captions, and a song at most {_MAX_CAPTIONS}. Remove some.")
    return found or None


def _lyrics(value: Any, where: str) -> str | None:
    return _text(value, where).replace("\r\n", "\n").replace("\r", "\n") or None


def _language(value: Any, where: str) -> str | None:
    return single_line(_text(value, where)).lower() or None


def _bpm(value: Any, where: str) -> int | None:
    """Parse beats per minute, rounded."""
    text = _text(value, where).lower().removesuffix("bpm").strip(" ~").replace(",", ".")
    try:
        bpm = round(float(text or 0))
    except (ValueError, OverflowError) as error:
        raise DatasetError(f"{where} must be beats per minute such as 120, got {value!r:.{QUOTED}}.") from error
    if not 0 <= bpm <= _MAX_BPM:
        raise DatasetError(f"{where} must be beats per minute from 1 to {_MAX_BPM}, got {value!r:.{QUOTED}}.")
    return bpm or None


def _repeats(value: Any, where: str) -> int | None:
    text = _text(value, where)
    if not text:
        return None
    repeats = float(text) if text.replace(".", "", 1).isdecimal() else 0.0
    if not (repeats.is_integer() and 1 <= repeats <= _MAX_REPEATS):
        raise DatasetError(f"{where} must be a whole number from 1 to {_MAX_REPEATS}, got {value!r:.{QUOTED}}.")
    return int(repeats)


def _flag(value: Any, where: str) -> bool | None:
    text = str(value).lower() if isinstance(value, bool) else _text(value, where).lower()
    if text in {"true", "yes", "1"}:
        return True
    if text in {"false", "no", "0"}:
        return False
    if text:
        raise DatasetError(f"{where} must be true or false, got {value!r:.{QUOTED}}.")
    return None


def _one_of(choices: tuple[str, ...]) -> Callable[[Any, str], str | None]:
    def parse(value: Any, where: str) -> str | None:
        text = _text(value, where).lower()
        if text and text not in choices:
            raise DatasetError(f"{where} must be {' or '.join(choices)}, got {value!r:.{QUOTED}}.")
        return text or None

    return parse


_PARSERS: dict[Field, Callable[[Any, str], Any]] = {
    "caption": _line, "captions": _captions, "lyrics": _lyrics, "language": _language, "bpm": _bpm, "key": _line,
    "signature": _line, "genre": _line, "trigger_word": _line,
    "trigger_position": _one_of(get_args(TriggerPosition)),
    "prompt_override": _one_of(("caption", "genre")), "instrumental": _flag, "repeats": _repeats,
}  # fmt: skip
"""Parser of each field's values; None for no value."""
