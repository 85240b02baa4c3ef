"""What can be said about a song: the names that people use for it, and what their values mean.

Values are kept as they are written, but for this: every text other than lyrics is one paragraph (any white space in it
is one space), lyrics have no white space around them and lines that end in a line feed, and a text that is only a word
for nothing, such as n/a or unknown, says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypedDict, cast, get_args

from .config import TriggerPosition
from .errors import DatasetError

PromptOverride = Literal["", "caption", "genre"]


class Notes(TypedDict, total=False):
    """What one source says about a song; a missing field says nothing."""

    caption: str
    lyrics: str
    language: str
    bpm: int | None
    key: str
    signature: str
    genre: str
    tag: str
    tag_position: TriggerPosition | None
    prompt_override: PromptOverride
    instrumental: bool
    repeats: int


class Entry(NamedTuple):
    """One named value as found; `where` begins the message of an error about it."""

    name: str
    value: Any
    where: str


Field = Literal["caption", "lyrics", "language", "bpm", "key", "signature", "genre", "tag", "tag_position",
                "prompt_override", "instrumental", "repeats"]
NAMES: dict[str, Field] = {
    "caption": "caption",
    "lyrics": "lyrics",
    "language": "language", "lang": "language", "vocal_language": "language",
    "bpm": "bpm", "tempo": "bpm",
    "key": "key", "keyscale": "key", "key_scale": "key", "scale": "key",
    "signature": "signature", "timesignature": "signature", "time_signature": "signature", "sig": "signature",
    "genre": "genre", "genres": "genre", "tags": "genre",
    "tag": "tag", "custom_tag": "tag", "trigger": "tag", "trigger_word": "tag",
    "tag_position": "tag_position", "trigger_position": "tag_position",
    "prompt_override": "prompt_override",
    "instrumental": "instrumental", "is_instrumental": "instrumental",
    "repeats": "repeats", "repeat": "repeats",
}  # fmt: skip
"""Every name of a field, in lower case and with underscores."""
_NOTHING = {"", "n/a", "na", "none", "null", "unknown"}
_MAX_BPM = 999
_MAX_REPEATS = 1000
QUOTED = 100
"""Characters of a wrong value that are shown."""


def field_of(name: str) -> Field | None:
    """The field that a name means, however it is spelled."""
    return NAMES.get(plain_name(name))


def plain_name(name: str) -> str:
    """In lower case, with underscores."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def notes_from(entries: Iterable[Entry], remarks: list[str] | None = None) -> Notes:
    """What the entries of a source say; unknown names are ignored, and empty values say nothing.

    Of two entries for one field the later counts; where they differ, `remarks` gets a sentence about it.  Raises
    DatasetError where a value cannot be what its name says.
    """
    said: dict[Field, Any] = {}
    for name, value, where in entries:
        field = field_of(name)
        if field is None:
            continue
        meant = _MEANING[field](value, where)
        if meant is None:
            continue
        if remarks is not None and said.get(field, meant) != meant:
            remarks.append(f"{where} says {meant!r:.{QUOTED}}, which counts; before, {field} was "
                           f"{said[field]!r:.{QUOTED}}. Remove one of them.")
        said[field] = meant
    return cast("Notes", said)


def settled(notes: Notes) -> Mapping[Field, Any]:
    """Each field of the notes as it is kept: None where the value is empty, which takes the field away.

    Raises DatasetError where a value is not what its name says.
    """
    return {cast("Field", field): _MEANING[cast("Field", field)](value, field) for field, value in notes.items()}


def merged(weak: Notes, strong: Notes) -> Notes:
    """Both, and where they differ the stronger: if that has lyrics, it takes more than itself to call them unsung."""
    both = weak | strong
    if strong.get("lyrics") and "instrumental" not in strong:
        both.pop("instrumental", None)
    return both


def json_entries(values: Mapping[str, Any], where: str) -> list[Entry]:
    """The entries of a JSON object."""
    return [Entry(name, value, f"{where}: {name}") for name, value in values.items()]


def paragraph(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


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
            raise DatasetError(f"{where} must be text, got {value!r:.{QUOTED}}.")
    if text != text.encode("utf-8", "replace").decode():
        raise DatasetError(f"{where} is not valid Unicode. Write it again.")
    return "" if text.lower() in _NOTHING else text


def _line(value: Any, where: str) -> str | None:
    return paragraph(_text(value, where)) or None


def _lyrics(value: Any, where: str) -> str | None:
    return _text(value, where).replace("\r\n", "\n").replace("\r", "\n") or None


def _language(value: Any, where: str) -> str | None:
    return paragraph(_text(value, where)).lower() or None


def _bpm(value: Any, where: str) -> int | None:
    """Beats per minute, rounded."""
    text = _text(value, where).lower().removesuffix("bpm").strip()
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
    def meaning(value: Any, where: str) -> str | None:
        text = _text(value, where).lower()
        if text and text not in choices:
            raise DatasetError(f"{where} must be {' or '.join(choices)}, got {value!r:.{QUOTED}}.")
        return text or None

    return meaning


_MEANING: dict[Field, Callable[[Any, str], Any]] = {
    "caption": _line, "lyrics": _lyrics, "language": _language, "bpm": _bpm, "key": _line, "signature": _line,
    "genre": _line, "tag": _line, "tag_position": _one_of(get_args(TriggerPosition)),
    "prompt_override": _one_of(("caption", "genre")), "instrumental": _flag, "repeats": _repeats,
}  # fmt: skip
"""What a value of each field means; None where it says nothing."""
