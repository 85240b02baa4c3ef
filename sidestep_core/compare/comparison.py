"""Folder of one comparison: takes of the same prompt and seed, the votes, and the take to keep.

    comparison.json      prompt, seed, sampler settings, takes, votes
    take-1.flac ...      the takes, in the order of comparison.json; the first is the base
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from ..errors import ConfigError
from ..io import atomic, strict_json
from ..io.record import Between, Record

FILE = "comparison.json"
TAKE = "take-{}.flac"
ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")
MAX_TAKES = 9
"""Takes of a comparison: one for each number key."""
MAX_VOTES = 1000


@dataclass(frozen=True, kw_only=True)
class Take(Record):
    """Audio made with one adapter at one strength, or with the base."""

    name: str
    strength: float = 0.0
    adapter_file: str = ""
    """Name in the LoRA lists; empty for the base, and for a run checkpoint that was not published."""
    checkpoint: str = ""
    """Run checkpoint as `run/checkpoint-step-N`."""
    content: str = ""
    """Fingerprint of the adapter's file when the take was made."""
    lufs: float | None = None
    """Integrated loudness; None for silence and for less than 0.4 s."""


@dataclass(frozen=True, kw_only=True)
class Vote(Record):
    """Choice of the best take, made with the names hidden."""

    take: Annotated[int, Between(1, MAX_TAKES)]
    at: float
    """Unix seconds."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Record):
    """Takes of one prompt and seed."""

    id: str
    created: float
    """Unix seconds."""
    prompt: str
    lyrics: str
    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    denoise: float
    seconds: float
    takes: tuple[Take, ...]
    votes: tuple[Vote, ...] = ()
    kept: int | None = None
    """Number of the take that a person chose, from 1."""

    def take(self, number: int) -> Take:
        """Return a take by its number, from 1.  ConfigError if there is none."""
        if not 1 <= number <= len(self.takes):
            raise ConfigError(f"There is no take {number}; this comparison has {len(self.takes)}.")
        return self.takes[number - 1]

    def voted(self, number: int) -> Comparison:
        """Add a blind vote, now; the oldest of more than MAX_VOTES goes."""
        self.take(number)
        return replace(self, votes=(*self.votes, Vote(take=number, at=round(time.time(), 3)))[-MAX_VOTES:])

    def with_kept(self, number: int, adapter_file: str) -> Comparison:
        """Mark the take to keep, whose adapter is under this name in the LoRA lists."""
        takes = list(self.takes)
        takes[number - 1] = replace(self.take(number), adapter_file=adapter_file)
        return replace(self, takes=tuple(takes), kept=number)


def new_id(now: float | None = None) -> str:
    """Make a name of a folder that sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{secrets.token_hex(2)}"


def write(root: Path, comparison: Comparison, takes: Sequence[bytes]) -> Path:
    """Write a new comparison with its FLAC files, whole or not at all; return its folder."""
    folder = root / comparison.id
    with atomic.atomic_folder(folder) as temporary:
        for number, content in enumerate(takes, start=1):
            atomic.write_bytes(temporary / TAKE.format(number), content)
        atomic.write_json(temporary / FILE, comparison.to_json())
    return folder


def update(root: Path, comparison: Comparison) -> None:
    """Write the votes and the choice of a comparison that exists."""
    atomic.write_json(root / comparison.id / FILE, comparison.to_json())


def read(root: Path, name: str) -> Comparison | None:
    """Read a comparison by its id; None if there is none.  BadJson if its file is damaged."""
    path = root / name / FILE
    if not ID.fullmatch(name) or not path.is_file():
        return None
    return Comparison.from_json(strict_json.read(path), FILE)


def take_file(root: Path, name: str, number: int) -> Path | None:
    """Find the audio of a take, or None."""
    path = root / name / TAKE.format(number)
    return path if ID.fullmatch(name) and 1 <= number <= MAX_TAKES and path.is_file() else None


def names(root: Path) -> list[str]:
    """List the ids of all comparisons, newest first."""
    return sorted((path.parent.name for path in root.glob(f"*/{FILE}") if ID.fullmatch(path.parent.name)),
                  reverse=True)
