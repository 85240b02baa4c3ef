"""Division of untimed lyrics among the sections of a song, by order and number of lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

MARKER = re.compile(r"\s*\[[^\[\]]+\]\s*")
"""Line of lyrics that names a part, such as [Verse]."""
_INTERLUDE_LINES = 2
"""Lines that a part without words, such as [Intro], counts as."""


def divide(lyrics: str, cuts: Sequence[float]) -> list[str]:
    """Divide lyrics among the sections of a song that is cut at these shares of its length (0 to 1, ascending).

    Parts that begin with a marker such as [Verse] stay whole; without markers, paragraphs; in one paragraph, lines.
    Each part takes as long as it has lines, and belongs to the section in which its middle falls.  Every line is in
    exactly one text, in the old order; only blank lines where a text begins or ends are dropped.
    """
    parts = _parts(lyrics.splitlines())
    lengths = [max(_INTERLUDE_LINES, sum(bool(line.strip()) and not MARKER.fullmatch(line) for line in part))
               for part in parts]
    sections: list[list[str]] = [[] for _ in range(len(cuts) + 1)]
    for part, length, end in zip(parts, lengths, accumulate(lengths), strict=True):
        middle = (end - length / 2) / sum(lengths)
        sections[sum(cut <= middle for cut in cuts)] += part
    return ["\n".join(lines).strip() for lines in sections]


def _parts(lines: Sequence[str]) -> list[list[str]]:
    """Group lines into parts that stay together."""
    if any(MARKER.fullmatch(line) for line in lines):
        starts = [bool(MARKER.fullmatch(line)) for line in lines]
    else:
        starts = [bool(line.strip()) and not before.strip() for before, line in zip(["", *lines], lines, strict=False)]
        if sum(starts) == 1:
            starts = [True] * len(lines)
    parts: list[list[str]] = []
    for line, starts_part in zip(lines, starts, strict=True):
        if starts_part or not parts:
            parts.append([])
        parts[-1].append(line)
    # Lines before the first marker (a title, a blank line) belong to the first part.
    return [parts[0] + parts[1], *parts[2:]] if len(parts) > 1 and not starts[0] else parts
