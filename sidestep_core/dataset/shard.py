"""Share of a song list that one of several machines encodes, as its manifest records it.

Songs are dealt by a hash of their names: every machine with the same list finds the same shares, which have no song in
common, differ by at most one in size, and together are the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Self

from ..errors import DatasetError
from ..io import hashing
from ..io.record import Between, Record
from ..songs.song import Song
from .config import PreprocessConfig

MAX_SHARDS = 10_000
RESULT_INVARIANT_SETTINGS = ("tile_seconds",)
"""Settings that affect memory only, so that machines may differ in them."""


@dataclass(frozen=True, kw_only=True)
class Shard(Record):
    """One of several parts of a dataset: its number, and everything that the parts must have in common."""

    number: Annotated[int, Between(1, MAX_SHARDS)]
    """From 1."""
    of: Annotated[int, Between(1, MAX_SHARDS)]
    songs: tuple[tuple[str, str], ...]
    """Whole list, in its order: name, and fingerprint of the file's size, section and texts."""
    settings: Mapping[str, Any]
    """Settings that the encoded songs depend on."""
    left_out: tuple[str, ...] = ()
    """Songs of the share that cannot be used."""

    @classmethod
    def of_list(cls, number: int, of: int, songs: Sequence[Song], config: PreprocessConfig) -> Self:
        """Make the shard of a song list.  DatasetError if there are fewer songs than shards."""
        if of > len(songs):
            raise DatasetError(f"{len(songs)} songs cannot be divided into {of} shards. Take at most {len(songs)}.")
        settings = {name: value for name, value in config.to_json().items() if name not in RESULT_INVARIANT_SETTINGS}
        return cls(number=number, of=of, songs=tuple((song.name, _content(song)) for song in songs),
                   settings=settings)

    def __str__(self) -> str:
        return f"shard {self.number} of {self.of}"

    def share(self) -> frozenset[str]:
        """Names of the songs of this shard."""
        dealt = sorted(dict(self.songs), key=lambda name: (hashing.fingerprint(name), name))
        return frozenset(dealt[self.number - 1::self.of])

    def without(self, names: Iterable[str]) -> Self:
        """Return the shard with these songs left out."""
        return replace(self, left_out=tuple(names))


def _content(song: Song) -> str:
    """Fingerprint of what a song's part of a dataset is made of.

    The time of the file does not count: copies of it may have another one.
    """
    try:
        size = song.path.stat().st_size
    except OSError:
        size = -1  # preprocessing says why, and leaves it out
    return hashing.fingerprint({**asdict(song), "path": "", "size": size})
