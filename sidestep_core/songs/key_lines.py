"""Lines of a text that begin with a key, in any markup: `caption: calm`, `**Caption:** calm`, `# Caption`."""

from __future__ import annotations

import re
from typing import NamedTuple

_LONGEST = 80
"""Most characters of a line up to the end of its key."""
_MARK = r"(?P<mark>\*\*|__|[*_`]|)"
_LETTER = "A-Za-z\u4e00-\u9fff"
_NAME = rf"(?P<name>[{_LETTER}][{_LETTER} _-]{{0,39}}?)"
_COLON = "[:\uff1a\ufe55]"
_UNSEEN = r"[\s\u200b-\u200d\u2060\ufeff]*"
_BULLET = r"(?:(?:[-*+>\u2022]|\d\d?[.)])\s+|[^\w\s#*_`<>()\[\]{}\"'\u2018-\u201f-]{1,3}\s*)?"
"""A dash, a number, or an emoji."""
_KEY = re.compile(rf"{_UNSEEN}{_BULLET}{_MARK}{_NAME}\s*"
                  rf"(?:(?P<closed>(?P=mark)\s*{_COLON}|{_COLON}\s*(?P=mark))|{_COLON})\s*")
_ASSIGNED = re.compile(rf"{_UNSEEN}{_BULLET}(?P<name>(?:caption|prompt|lyrics|bpm|tempo|genre|language|tags?|style|key)"
                       r"(?= ?[=\t])|(?:caption|prompt|lyrics|bpm)(?= [-\u2013\u2014] ))\s*[-=\u2013\u2014]?\s*",
                       re.IGNORECASE)
"""`caption = calm`, or a tab or dash for the colon; only for names that lyrics would not contain like this."""
_HEADING = re.compile(rf"\s*(?:#{{1,6}}\s+)(?:\*\*|__)?{_NAME}\s*{_COLON}?\s*(?:\*\*|__)?{_COLON}?\s*"
                      r"|\s*\[(?P<section>(?i:caption|prompt|lyrics))\]\s*"
                      rf"|\s*(?:\*\*|__)(?P<bold>[{_LETTER}][{_LETTER} _-]{{0,39}}?)\s*(?:\*\*|__)\s*")
_FENCE = re.compile(r"\s*(```|~~~)\w*\s*")
_RULE = re.compile(r"\s*([-*_=])\1{2,}\s*")


class KeyLine(NamedTuple):
    """Key of a line and the value behind it; a heading's value is on the lines below."""

    name: str
    value: str
    heading: bool = False


def key_line(line: str) -> KeyLine | None:
    """Parse the key and value of a line; None where it has no key."""
    if len(line) <= _LONGEST and (heading := _HEADING.fullmatch(line)):
        return KeyLine(heading["name"] or heading["bold"] or heading["section"], "", heading=True)
    key = _KEY.match(line[:_LONGEST])
    if key is None:
        assigned = _ASSIGNED.match(line[:_LONGEST])
        return KeyLine(assigned["name"], line[assigned.end():].rstrip()) if assigned else None
    value = line[key.end():]
    return KeyLine(key["name"], value if key["closed"] is not None else value.rstrip().removesuffix(key["mark"]))


def is_fence(line: str) -> bool:
    """True for a fence of a code block or a horizontal rule."""
    return len(line) <= _LONGEST and (_FENCE.fullmatch(line) or _RULE.fullmatch(line)) is not None
