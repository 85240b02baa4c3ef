"""Song folders for tests.  A scan never opens the audio, so any bytes will do."""

from __future__ import annotations

from pathlib import Path

from sidestep_core.songs.scan import find_songs
from sidestep_core.songs.song import Song, SongFolder


def put(folder: Path, **files: str) -> None:
    """Write files by name; __ stands for a dot."""
    for name, text in files.items():
        write(folder / name.replace("__", "."), text)


def write(path: Path, text: str = "sound") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def song_in(folder: Path) -> Song:
    scan = find_songs(folder)
    assert scan.problems == ()
    assert len(scan.songs) == 1
    return scan.songs[0]


def problem_in(folder: Path) -> str:
    """Return the only problem of a folder that also holds a good song."""
    write(folder / "zz_good.wav")
    scan = find_songs(folder)
    assert [song.name for song in scan.songs] == ["zz_good.wav"]
    assert len(scan.problems) == 1
    return f"{scan.problems[0].name}: {scan.problems[0].reason}"


def names(scan: SongFolder) -> list[str]:
    return [song.name for song in scan.songs]
