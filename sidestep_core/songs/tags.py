"""What an audio file says about itself in its own tags: the weakest source, as nobody wrote it for a training.

Genre, lyrics, BPM and key of ID3, Vorbis comments, MP4 atoms and WAV and AIFF chunks are read under the names that
FFmpeg and the usual programs give them.  A title names a song and does not describe it, and a comment is mostly an
advertisement of the program that wrote it: neither is ever a caption.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import DatasetError
from ..model.prompts import spelled_out
from .metadata import Entry, Field, Remarks, SongMetadata, notes_from

FIELDS: frozenset[Field] = frozenset({"genre", "lyrics", "bpm", "key"})
"""What tags can say."""

_NAMES: Mapping[str, Field] = {
    "genre": "genre",
    "lyrics": "lyrics", "unsyncedlyrics": "lyrics", "unsynced lyrics": "lyrics", "uslt": "lyrics",
    "bpm": "bpm", "tbpm": "bpm", "tmpo": "bpm", "tempo": "bpm", "fbpm": "bpm",
    "initialkey": "key", "initial key": "key", "initial_key": "key", "tkey": "key", "key": "key",
}  # fmt: skip


def notes_in_tags(tags: Mapping[str, str], file: str, remarks: Remarks) -> SongMetadata:
    """What tags by name say; `remarks` gets a sentence about each value that is not what its name says."""
    notes: SongMetadata = {}
    for name, text in tags.items():
        # ID3 names the language too: lyrics-eng.
        field = _NAMES.get(name.lower()) or ("lyrics" if name.lower().startswith("lyrics-") else None)
        if field is None:
            continue
        entry = Entry(field, spelled_out(text) if field == "key" else text, f"The tag {name} of {file}")
        try:
            notes = notes_from([entry], remarks) | notes
        except DatasetError as error:
            remarks.sentences.append(f"{error} It is not used.")
    return notes
