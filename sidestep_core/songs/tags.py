"""Metadata in the tags of an audio file: the weakest source, as nobody wrote it for a training.

Genre, lyrics, BPM and key of ID3, Vorbis comments, MP4 atoms and WAV and AIFF chunks are read under the names of
FFmpeg and the usual programs.  A title names a song without describing it, and a comment mostly advertises the program
that wrote it: neither becomes a caption.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import DatasetError
from ..model.prompts import spell_out_key
from .metadata import Entry, Field, Remarks, SongMetadata, parse_entries

TAG_FIELDS: frozenset[Field] = frozenset({"genre", "lyrics", "bpm", "key"})
"""Fields that tags can hold."""

_NAMES: Mapping[str, Field] = {
    "genre": "genre",
    "lyrics": "lyrics", "unsyncedlyrics": "lyrics", "unsynced lyrics": "lyrics", "uslt": "lyrics",
    "bpm": "bpm", "tbpm": "bpm", "tbp": "bpm", "tmpo": "bpm", "tempo": "bpm", "fbpm": "bpm",
    "initialkey": "key", "initial key": "key", "initial_key": "key", "tkey": "key", "tke": "key", "key": "key",
}  # fmt: skip


def parse_tags(tags: Mapping[str, str], file: str, remarks: Remarks) -> SongMetadata:
    """Parse tags by name; the first of two names for a field counts.  Invalid values become remarks."""
    metadata: SongMetadata = {}
    for name, text in tags.items():
        # ID3 names the language too: lyrics-eng.
        field = _NAMES.get(name.lower()) or ("lyrics" if name.lower().startswith("lyrics-") else None)
        if field is None:
            continue
        entry = Entry(field, spell_out_key(text) if field == "key" else text, f"The tag {name} of {file}")
        try:
            metadata = parse_entries([entry], remarks) | metadata
        except DatasetError as error:
            remarks.sentences.append(f"{error} It is not used.")
    return metadata
