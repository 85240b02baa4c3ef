"""Audio files below a folder, and the sidecars that lie beside each; no file is opened."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import bounded_walk
from .bounded_walk import Tick
from .sidecars import SIDECARS

EXTENSIONS = frozenset(
    ".aac .ac3 .aif .aifc .aiff .alac .ape .au .caf .dts .eac3 .flac .m4a .m4b .mka .mp2 .mp3 .mp4 .mpc .oga .ogg "
    ".opus .spx .tak .tta .w64 .wav .wave .webm .wma .wv".split()
)

Tell = Callable[[str, str], None]
"""Called with the name of what is left out, and why."""


@dataclass(frozen=True, kw_only=True)
class AudioFile:
    """An audio file, the name of each sidecar beside it by its suffix, and the files that share these sidecars."""

    path: Path
    sidecars: dict[str, str]
    twins: tuple[str, ...] = ()
    """Names of other audio files with the same stem."""


def walk(root: Path, tell: Tell, tick: Tick = lambda: None) -> Iterator[AudioFile]:
    """Every audio file with its sidecars; hidden ones and links out of the folder are skipped.  See bounded_walk."""
    def leave_out(path: Path, reason: str) -> None:
        tell(relative(path, root), reason)

    for folder, files in bounded_walk.walk(root, leave_out, tick, hidden=False):
        if folder.name != "__MACOSX" or folder == root:
            yield from _songs_of(folder, [name for name in files if not _hidden(name)])


def sidecars_of(song: Path) -> dict[str, str]:
    """The name of each sidecar beside one song, by its suffix."""
    stem = _stem(song.name)
    with os.scandir(song.parent) as entries:
        files = [entry.name for entry in entries if _composed(entry.name).startswith(stem) and entry.is_file()]
    return next((found.sidecars for found in _songs_of(song.parent, files) if found.path.name == song.name), {})


def relative(path: Path, root: Path) -> str:
    """The path from the root on, with forward slashes."""
    return path.relative_to(root).as_posix()


def printable(name: str) -> str:
    """The name without the bytes that no text file, and so no dataset, can hold."""
    return name.encode("utf-8", "replace").decode()


def what_is_there(folder: Path) -> str:
    """What was looked for, and what is there instead."""
    endings = Counter(Path(name).suffix.lower() or "no ending" for _, files in bounded_walk.walk(folder)
                      for name in files)
    others = ", ".join(f"{count} x {ending}" for ending, count in endings.most_common(5)) or "no file at all"
    return f"Looked for {' '.join(sorted(EXTENSIONS))}; found {others}."


def _songs_of(folder: Path, files: Sequence[str]) -> Iterator[AudioFile]:
    paths = [folder / file for file in files]
    songs = [path for path in paths if path.suffix.lower() in EXTENSIONS]
    named: dict[str, list[str]] = defaultdict(list)
    for path in songs:
        named[_stem(path.name)].append(path.name)
    sidecars: dict[str, dict[str, str]] = defaultdict(dict)
    for path in paths:
        own = _stem(path.name)
        for suffix in SIDECARS:
            stem = _composed(path.name[: -len(suffix)])
            # song_lyrics.txt is the lyrics of song.wav, unless there is a song_lyrics.wav that it belongs to.
            belongs = own == stem or own not in named
            if path.name.lower().endswith(suffix) and stem in named and belongs:
                sidecars[stem][suffix] = path.name
    for path in songs:
        yield AudioFile(path=path, sidecars=sidecars[_stem(path.name)],
                        twins=tuple(name for name in named[_stem(path.name)] if name != path.name))


def _stem(file: str) -> str:
    return _composed(Path(file).stem)


def _composed(name: str) -> str:
    """With composed characters, as macOS decomposes what others write."""
    return unicodedata.normalize("NFC", name)


def _hidden(name: str) -> bool:
    """Also AppleDouble files, which macOS puts beside every file on foreign disks as ._name."""
    return name.startswith(".") or name == "__MACOSX"
