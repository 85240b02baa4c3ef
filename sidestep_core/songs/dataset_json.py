"""Writer of dataset.json, which Side-Step reads, and which `find_songs` reads back to the same songs.

The file has all keys of Side-Step's format, and where needed some of our own: `captions`, which take turns with the
caption; `song`, a name that is not the path; `start` and `stop` of a section, in seconds; and in the metadata `folder`,
to which names are relative.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..io import atomic, hashing, strict_json
from .lists import LARGEST_LIST, NAME_KEY
from .song import Song, SongFolder

Json = dict[str, Any]


def write_dataset_json(found: SongFolder, path: Path, name: str) -> None:
    """Write the songs with their metadata, under a name for the dataset.

    Songs below the file's folder get paths relative to it, so that both may move together; others absolute ones.  The
    genre_ratio is written in whole percent.  An identical file is left untouched.
    """
    path = Path(os.path.normpath(path.absolute()))
    seconds = {report.name: report.seconds for report in found.reports}
    position = _shared_position(found)
    content: Json = {
        "metadata": {
            "name": name, "custom_tag": found.shared_trigger_word, "tag_position": position,
            "created_at": datetime.now().astimezone().isoformat(timespec="seconds"), "num_samples": len(found.songs),
            "all_instrumental": all(song.instrumental for song in found.songs),
            "genre_ratio": round(found.genre_ratio * 100),
            **({} if found.folder == path.parent else {"folder": str(found.folder)}),
        },
        "samples": [_sample(song, path.parent, found.folder, seconds.get(song.name, 0.0), position)
                    for song in found.songs],
    }
    if not _is_written(path, content):
        atomic.write_json(path, content)


def _sample(song: Song, here: Path, root: Path, seconds: float, position: str) -> Json:
    audio_path = song.path.relative_to(here).as_posix() if song.path.is_relative_to(here) else str(song.path)
    known_as = song.path.relative_to(root).as_posix() if song.path.is_relative_to(root) else song.path.as_posix()
    sample: Json = {
        "id": hashing.fingerprint(song.name)[:8], "audio_path": audio_path, "filename": song.path.name,
        "caption": song.caption, "genre": song.genre, "lyrics": song.lyrics, "raw_lyrics": song.lyrics,
        "formatted_lyrics": "", "bpm": song.bpm, "keyscale": song.key, "timesignature": song.signature,
        "duration": round(seconds), "language": song.language, "is_instrumental": song.instrumental,
        "custom_tag": song.trigger_word, "labeled": bool(song.caption), "prompt_override": song.prompt_override or None,
        "repeat": song.repeats,
    }
    if song.captions:
        sample["captions"] = list(song.captions)
    if song.name != known_as:
        sample[NAME_KEY] = song.name
    if song.start or song.stop:
        sample |= {"start": song.start, "stop": song.stop}
    if song.trigger_position and not (song.trigger_word and song.trigger_position == position):
        sample["tag_position"] = song.trigger_position
    return sample


def _shared_position(found: SongFolder) -> str:
    """Position of the trigger word in all songs that have one; empty where they differ."""
    positions = {song.trigger_position for song in found.songs if song.trigger_word} or {"prepend"}
    return (positions.pop() or "") if len(positions) == 1 else ""


def _is_written(path: Path, content: Json) -> bool:
    """True if the file has this content, apart from its date."""
    try:
        there = strict_json.read(path, max_bytes=LARGEST_LIST)
    except strict_json.BadJson:
        return False
    return bool(_timeless(there) == _timeless(content))


def _timeless(content: Any) -> Any:
    metadata = content.get("metadata") if isinstance(content, Mapping) else None
    if not isinstance(metadata, Mapping):
        return content
    return {**content, "metadata": {name: value for name, value in metadata.items() if name != "created_at"}}
