"""Notices about text files among songs that are not read, and about values under unknown names."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from .metadata import NAMES, QUOTED, Entry, plain_name

_TEXT_ENDINGS = frozenset(
    ".caption .cfg .csv .doc .docx .htm .html .ini .json .jsonl .lrc .lyrics .md .ods .odt .pdf .rtf .srt .toml .tsv "
    ".txt .vtt .xls .xlsx .xml .yaml .yml".split()
)
_BACKUP = ".bak"
_SYSTEM = frozenset(("desktop.ini", "thumbs.db"))
_SNIFFED = 512
"""Bytes by which text is recognised in files of unknown endings."""
_MAX_SNIFFED = 1000
_LARGEST = 1 << 20
_NAMED_ALONE, _NAMED_IN_ALL = 5, 20
_MAX_UNKNOWN = 50
"""Names with a notice each."""


def unread(others: Sequence[str], songs: Sequence[str], reasons: Mapping[str, str],
           root: Path) -> Iterator[tuple[str, str]]:
    """Yield the path of each text file that is not read, and why; many are joined in one notice.

    reasons: path -> reason that is already known.
    """
    stems = {PurePosixPath(song).stem.casefold(): song for song in songs}
    texts: list[str] = []
    strange: list[str] = []
    for name in others:
        named = name in reasons or PurePosixPath(name).suffix.lower() in _TEXT_ENDINGS
        (texts if named else strange).append(name)
    texts = sorted([*texts, *(name for name in strange[:_MAX_SNIFFED] if _is_text(root / name))])
    texts = [name for name in texts if PurePosixPath(name).name.lower() not in _SYSTEM and not name.endswith(_BACKUP)]
    for name in texts[:_NAMED_ALONE]:
        yield name, reasons.get(name) or _reason(name, stems)
    if rest := texts[_NAMED_ALONE:]:
        more = f" and {len(rest) - _NAMED_IN_ALL} more" if len(rest) > _NAMED_IN_ALL else ""
        yield rest[0], f"It is not read, nor are {', '.join(rest[1:_NAMED_IN_ALL])}{more}." if rest[1:] else _reason(
            rest[0], stems)


def unknown(values: Iterable[tuple[str, Entry]]) -> Iterator[tuple[str, str]]:
    """Yield the first song or file with each unknown name, and a sentence with its value; many names are joined."""
    by_name: dict[str, list[tuple[str, Entry]]] = defaultdict(list)
    for song, entry in values:
        by_name[plain_name(entry.name)].append((song, entry))
    found = list(by_name.values())
    for (song, entry), *others in found[:_MAX_UNKNOWN]:
        where = entry.where.removesuffix(f": {entry.name}")
        more = f" There are {len(others)} more of this name." if others else ""
        near = difflib.get_close_matches(plain_name(entry.name)[:QUOTED], NAMES, n=1)
        hint = f" The nearest is {near[0]}." if near else ""
        yield song, (f"{where} says {entry.name:.{QUOTED}}: {str(entry.value)!r:.{QUOTED}}, which is not used, as "
                     f"nothing is called so.{hint}{more}")
    if rest := found[_MAX_UNKNOWN:]:
        song, entry = rest[0][0]
        where = entry.where.removesuffix(f": {entry.name}")
        yield song, f"{where} says {len(rest)} more names that mean nothing, such as {entry.name:.{QUOTED}}."


def _reason(name: str, stems: Mapping[str, str]) -> str:
    path = PurePosixPath(name)
    for stem in (path.stem, PurePosixPath(path.stem).stem):
        if song := stems.get(stem.casefold()):
            return f"It is not read. Put what it says of {song} into {PurePosixPath(song).stem}.txt beside it."
    near = difflib.get_close_matches(path.stem.casefold(), stems, n=1, cutoff=0.0)
    hint = f"; the nearest is {stems[near[0]]}. If it is meant, rename the file" if near else ""
    return f"It is not read, as no song has its name{hint}."


def _is_text(path: Path) -> bool:
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            return False
        with path.open("rb") as file:
            content = file.read(_SNIFFED)
    except OSError:
        return False
    return bool(content) and (b"\0" not in content or content.startswith((b"\xff\xfe", b"\xfe\xff")))
