"""Metadata of a song written back to its sidecars, into the file and the form that hold it already.

Everything else stays as typed: other fields, unknown keys, comments, byte-order marks and line ends.  Every change is
made in memory first and kept only if the sidecars then parse as intended; a text that a file's form would misread goes
into the next file that can hold it, at last `song.json`, which holds any.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ..errors import DatasetError
from ..io import atomic
from ..io.text import BOM, detect_encoding
from .files import sidecars_of
from .metadata import Field, SongMetadata, field_of, is_weak, validated
from .sidecars import (
    JSON_FILE,
    OWN_FILES,
    SIDECARS,
    TEXT_FILE,
    Part,
    Sidecars,
    SidecarText,
    asides,
    json_object,
    parse_sidecars,
    parts,
    read_sidecars,
)
from .song import Song

BACKUP = ".bak"
_TEXTS = tuple(suffix for suffix in SIDECARS if suffix != JSON_FILE)
_LINE_NAMES: Mapping[Field, str] = {"trigger_word": "custom_tag", "trigger_position": "tag_position",
                                    "instrumental": "is_instrumental", "repeats": "repeat"}
_JSON_NAMES: Mapping[Field, str] = {**_LINE_NAMES, "key": "keyscale", "signature": "timesignature"}
"""Side-Step's name of a field in a line and in JSON, where it differs from ours."""


def write_sidecar(song: Song, metadata: SongMetadata) -> Path:
    """Write changed metadata of a song to its sidecars; return the last file written.

    An empty value removes the field, so that weaker sources count again.  The previous content of each file is kept as
    .bak.  Raises DatasetError, before anything is written, for an invalid value, an unreadable sidecar, or a section.
    """
    if song.start or song.stop:
        raise DatasetError(f"{song.name} is a section of {song.path.name}. Edit the whole song.")
    before = sidecars_of_song(song)
    after = before
    for field, value in validated(metadata).items():
        after = edited(after, song.path.stem, field, value)
    written = song.path.with_name(song.path.stem + TEXT_FILE)
    # Files that gain text first: a crash in between leaves the value twice rather than not at all.
    for suffix in sorted(after, key=lambda suffix: not after[suffix].text.strip()):
        if suffix not in before or after[suffix].text != before[suffix].text:
            written = song.path.parent / after[suffix].file
            _replace(written, after[suffix].text)
    return written


def sidecars_of_song(song: Song) -> Sidecars:
    """Read the present sidecars of a song.  Raises DatasetError where one cannot be read."""
    root = next((folder for folder in song.path.parents if folder / song.name == song.path), None)
    return read_sidecars(song.path.parent, sidecars_of(song.path, root))


def edited(sidecars: Sidecars, stem: str, field: Field, value: Any) -> Sidecars:
    """Set a field in the sidecars of the song `stem`; None removes it."""
    current = parse_sidecars(sidecars)
    expected = {**current, field: value}
    if value is None:
        del expected[field]
    if current == expected:
        return sidecars
    for start in (sidecars, _keyed(sidecars)):
        for candidate in _candidates(start, stem, field, value):
            if _read(candidate) == expected:
                return candidate
    raise DatasetError(f"{field} {value!r} cannot be written beside {stem}. Edit its files by hand.")


def _read(sidecars: Sidecars) -> SongMetadata | None:
    try:
        return parse_sidecars(sidecars)
    except DatasetError:
        return None


def _candidates(sidecars: Sidecars, stem: str, field: Field, value: Any) -> Iterator[Sidecars]:
    """Yield ways to write the value, the best fit for these files first; some may not parse as intended."""
    without = _without(sidecars, field)
    if value is None:
        yield without
        # The key alone would be the caption of a .caption file.
        yield {suffix: text._replace(text="") if _states_only(sidecars, suffix, field) else without[suffix]
               for suffix, text in sidecars.items()}
        return
    for suffix in reversed(OWN_FILES.get(field, ())):
        if suffix in sidecars and not _has_keys(sidecars, suffix):
            yield _with_text(sidecars, stem, suffix, f"{_asides(field, sidecars[suffix].text)}{value}\n")
            break
    stated = [suffix for suffix in reversed(_TEXTS) if any(_is(part, field) for part in parts(sidecars, suffix))]
    in_json = JSON_FILE in sidecars and any(field_of(name) == field for name in json_object(sidecars[JSON_FILE]))
    if in_json and not stated:
        yield _with_text(sidecars, stem, JSON_FILE, _json(sidecars, field, value))
    for suffix in stated:
        yield _with_text(sidecars, stem, suffix, _replaced(sidecars, suffix, field, value))
    yield _with_text(without, stem, TEXT_FILE, _added(without, field, value))
    if field in OWN_FILES:
        yield _with_text(without, stem, OWN_FILES[field][-1], f"{value}\n")
    yield _with_text(without, stem, JSON_FILE, _json(without, field, value))


def _states_only(sidecars: Sidecars, suffix: str, field: Field) -> bool:
    found = parts(sidecars, suffix)
    return bool(found) and all(_is(part, field) for part in found)


def _with_text(sidecars: Sidecars, stem: str, suffix: str, text: str) -> Sidecars:
    file = sidecars[suffix].file if suffix in sidecars else stem + suffix
    return {**sidecars, suffix: SidecarText(file, text)}


def _without(sidecars: Sidecars, field: Field) -> Sidecars:
    """Remove the field from all sidecars."""
    left = dict(sidecars)
    for suffix in _TEXTS:
        if suffix in left:
            left[suffix] = left[suffix]._replace(text=_replaced(sidecars, suffix, field, None))
    if JSON_FILE in left and any(field_of(name) == field for name in json_object(left[JSON_FILE])):
        left[JSON_FILE] = left[JSON_FILE]._replace(text=_json(left, field, None))
    return left


def _has_keys(sidecars: Sidecars, suffix: str) -> bool:
    return any(part.look != "plain" for part in parts(sidecars, suffix))


def _keyed(sidecars: Sidecars) -> Sidecars:
    """Put plain text in `song.txt` behind its key, so that other sidecars cannot change its meaning."""
    if TEXT_FILE not in sidecars:
        return sidecars
    text = sidecars[TEXT_FILE].text
    for part in reversed(parts(sidecars, TEXT_FILE)):
        if part.look == "plain":
            field = cast("Field", part.entry.name)
            line = _line(field, field, part.entry.value)
            text = text[:part.start] + _asides(field, text[part.start:part.stop]) + line + text[part.stop:]
    return _with_text(sidecars, "", TEXT_FILE, text)


def _json(sidecars: Sidecars, field: Field, value: Any) -> str:
    """Set the field in `song.json` under the names that it has there; None removes them."""
    values = json_object(sidecars[JSON_FILE]) if JSON_FILE in sidecars else {}
    names = [name for name in values if field_of(name) == field]
    own = [name for name in names if not is_weak(name)]
    if value is None:
        values = {name: kept for name, kept in values.items() if name not in names}
    else:
        values |= dict.fromkeys(own or names or [_JSON_NAMES.get(field, field)], value)
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _replaced(sidecars: Sidecars, suffix: str, field: Field, value: Any) -> str:
    """Set the value in the part of a text that counts for the field, and empty the other parts."""
    text = sidecars[suffix].text
    stated = sorted((part for part in parts(sidecars, suffix) if _is(part, field)), key=lambda part: part.start)
    counts = next((part for part in reversed(stated) if not is_weak(part.entry.name)), stated[-1] if stated else None)
    for part in reversed(stated):
        written = value if part is counts else None
        old = text[part.start:part.stop]
        if part.look == "tag":
            name = part.entry.name
            new = f"<{name}>{_spelled(written)}</{name}>" + ("\n" if old.endswith("\n") else "")
        elif part.look == "line":
            new = _line(field, part.entry.name, written) + _asides(field, old)
        else:
            new = _asides(field, old) + ("" if written is None else f"{written}\n")
        text = text[:part.start] + new + text[part.stop:]
    return text


def _added(sidecars: Sidecars, field: Field, value: Any) -> str:
    """Add the value to `song.txt`: as a tag if it has tags, else as a line in front of the lyrics."""
    text = sidecars[TEXT_FILE].text if TEXT_FILE in sidecars else ""
    there = parts(sidecars, TEXT_FILE)
    if any(part.look == "tag" for part in there):
        name = _JSON_NAMES.get(field, field).upper()
        return _ended(text) + f"<{name}>{_spelled(value)}</{name}>\n"
    line = _line(field, _LINE_NAMES.get(field, field), value)
    lyrics = next((part.start for part in there if part.look == "line" and _is(part, "lyrics")), len(text))
    return _ended(text[:lyrics]) + line + text[lyrics:]


def _line(field: Field, name: str, value: Any) -> str:
    """Format a `key: value` line; lyrics begin on the next line."""
    if value is None:
        return f"{name}:\n"
    return f"{name}:\n{value}\n" if field == "lyrics" else f"{name}: {_spelled(value)}\n"


def _spelled(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _asides(field: Field, text: str) -> str:
    """Comments and empty lines of a caption's text.  In lyrics, a line that begins with # is sung."""
    return asides(text) if field == "caption" else ""


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else text + "\n"


def _is(part: Part, field: Field) -> bool:
    return field_of(part.entry.name) == field


def _replace(path: Path, text: str) -> None:
    """Write a file with its previous line ends, encoding and byte-order mark; keep the previous content as .bak.

    A link is replaced by a file, and its target stays.
    """
    encoding, mark = "utf-8", False
    if path.is_file() and not path.is_symlink():
        old = path.read_bytes()
        atomic.copy(path, path.with_name(path.name + BACKUP))
        encoding = detect_encoding(old)
        mark = old.startswith(BOM.encode())
        if "\r\n" in old.decode(encoding, "replace"):
            text = text.replace("\n", "\r\n")
    atomic.write_bytes(path, ((BOM if mark else "") + text).encode(encoding))
