"""Audio files below a folder, and the sidecars that lie beside each; no file is opened."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..io import walk
from ..io.walk import Tick
from .sidecars import SIDECARS, TEXT_FILE

EXTENSIONS = frozenset(
    ".aac .ac3 .aif .aifc .aiff .alac .ape .au .caf .dts .eac3 .flac .m4a .m4b .mka .mp2 .mp3 .mp4 .mpc .oga .ogg "
    ".opus .spx .tak .tta .w64 .wav .wave .webm .wma .wv".split()
)

NOTE_FOLDERS = {
    **dict.fromkeys(("caption", "captions", "prompt", "prompts", "description", "descriptions"), ".caption.txt"),
    **dict.fromkeys(("lyric", "lyrics"), ".lyrics.txt"),
    **dict.fromkeys("annotations json labels meta metadata notes sidecars text texts txt".split(), TEXT_FILE),
}
"""Folders beside songs, in lower case, that hold their sidecars, and what a `song.txt` there is like."""

Tell = Callable[[str, str], None]
"""Called with the name of what is left out, and why."""


@dataclass(frozen=True, kw_only=True)
class AudioFile:
    """An audio file, the path from its folder to each of its sidecars by suffix, and the files that share them."""

    path: Path
    sidecars: dict[str, str]
    twins: tuple[str, ...] = ()
    """Names of other audio files with the same stem."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The files of a folder and of those below it, by their paths from it on; no hidden ones."""

    songs: dict[str, AudioFile]
    others: tuple[str, ...]
    """What is neither audio nor the sidecar of a song, sorted."""


def scan(root: Path, tell: Tell, tick: Tick = lambda: None) -> Scan:
    """Find every file below a folder, opening none.  See walk."""
    listed = dict(_listings(root, tell, tick))
    songs: dict[str, AudioFile] = {}
    used: set[str] = set()
    for folder, files in listed.items():
        noted = {below.name: listed[below] for below in _note_folders(folder, listed)}
        for song in _matched(folder, files, noted):
            songs[relative(song.path, root)] = song
            used.update(relative(folder / sidecar, root) for sidecar in song.sidecars.values())
    every = {relative(folder / file, root) for folder, files in listed.items() for file in files}
    return Scan(songs=songs, others=tuple(sorted(every - used - songs.keys())))


def _listings(root: Path, tell: Tell, tick: Tick) -> Iterator[tuple[Path, list[str]]]:
    """Each folder with the names of its files; hidden ones and links out of the folder are left out."""
    def leave_out(path: Path, reason: str) -> None:
        tell(relative(path, root), reason)

    for folder, files in walk.walk(root, leave_out, tick, hidden=False):
        if folder.name != "__MACOSX" or folder == root:
            yield folder, [name for name in files if not _hidden(name)]


def sidecars_of(song: Path, root: Path | None = None) -> dict[str, str]:
    """The path from a song's folder to each of its sidecars, by its suffix; links out of `root`, which is that folder
    or one around it, are none."""
    stem, top = _folded(song.stem), os.path.realpath(root or song.parent)

    def files_in(folder: Path) -> list[str]:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if _folded(entry.name).startswith(stem) and entry.is_file()
                    and not walk.leads_out(entry, top)]

    with os.scandir(song.parent) as entries:
        folders = [song.parent / entry.name for entry in entries if entry.name.lower() in NOTE_FOLDERS
                   and entry.is_dir(follow_symlinks=False)]
    noted = {folder.name: files_in(folder) for folder in sorted(folders)}
    found = _matched(song.parent, files_in(song.parent), noted)
    return next((file.sidecars for file in found if file.path.name == song.name), {})


def relative(path: Path, root: Path) -> str:
    """The path from the root on, with forward slashes."""
    return path.relative_to(root).as_posix()


def printable(name: str) -> str:
    """The name without the bytes that no text file, and so no dataset, can hold."""
    return name.encode("utf-8", "replace").decode()


def what_is_there(folder: Path) -> str:
    """What was looked for, and what is there instead."""
    endings = Counter(Path(name).suffix.lower() or "no ending" for _, files in walk.walk(folder)
                      for name in files)
    others = ", ".join(f"{count} x {ending}" for ending, count in endings.most_common(5)) or "no file at all"
    return f"Looked for {' '.join(sorted(EXTENSIONS))}; found {others}."


def _note_folders(folder: Path, listed: Mapping[Path, object]) -> list[Path]:
    return [below for below in listed if below.parent == folder and below.name.lower() in NOTE_FOLDERS]


def _matched(folder: Path, files: Sequence[str], noted: Mapping[str, Sequence[str]]) -> list[AudioFile]:
    """The songs among the files of a folder, with their sidecars there and in `noted` folders below.

    A file is a song's sidecar by the song's stem, or else by its whole name, or else by either in other letters if only
    one song can be meant; what is nearer comes first, and of two such files that are equally near neither is meant.
    """
    songs = [file for file in files if is_audio(file)]
    sidecars: dict[str, dict[str, str]] = {song: {} for song in songs}
    for place, names in {"": files, **noted}.items():
        # What lies beside songs in a folder of notes is theirs.
        theirs = [name for name in names if is_audio(name)] if place else []
        left = [name for name in names if not is_audio(name) and not _claim(name, _owners(theirs, _stem), _composed)]
        for key_of, spelled in _SPELLINGS:
            owners = _owners(songs, key_of)
            claims = {name: claim for name in left if (claim := _claim(name, owners, spelled))}
            wanted: dict[tuple[str, str], list[str]] = defaultdict(list)
            for name, (suffix, meant) in claims.items():
                slot = NOTE_FOLDERS[place.lower()] if place and suffix == TEXT_FILE else suffix
                for song in meant:
                    wanted[song, slot].append(f"{place}/{name}" if place else name)
            for (song, slot), found in wanted.items():
                if len(found) == 1:
                    sidecars[song].setdefault(slot, found[0])
            left = [name for name in left if name not in claims]
    sharing: dict[str, list[str]] = defaultdict(list)
    for song in songs:
        for sidecar in sidecars[song].values():
            sharing[sidecar].append(song)
    return [AudioFile(path=folder / song, sidecars=sidecars[song], twins=tuple(dict.fromkeys(
        other for sidecar in sidecars[song].values() for other in sharing[sidecar] if other != song)))
        for song in songs]


def _owners(songs: Sequence[str], key_of: Callable[[str], str]) -> dict[str, list[str]]:
    """The songs that each key means."""
    owners: dict[str, list[str]] = defaultdict(list)
    for song in songs:
        owners[key_of(song)].append(song)
    return owners


def _claim(file: str, owners: Mapping[str, list[str]], spelled: Callable[[str], str]) -> tuple[str, list[str]] | None:
    """The suffix that makes a file a sidecar, and the songs that it is one of; None where several could be meant."""
    for suffix in SIDECARS:
        # song_lyrics.txt is the lyrics of song.wav, unless there is a song_lyrics.wav that it belongs to.
        if file.lower().endswith(suffix) and (songs := owners.get(spelled(file[: -len(suffix)]))):
            return (suffix, songs) if len({_stem(song) for song in songs}) == 1 else None
    return None


def is_audio(file: str) -> bool:
    """Whether a file is a song by its ending."""
    return Path(file).suffix.lower() in EXTENSIONS


def _stem(file: str) -> str:
    return _composed(Path(file).stem)


def _composed(name: str) -> str:
    """With composed characters, as macOS decomposes what others write."""
    return unicodedata.normalize("NFC", name)


def _folded_stem(file: str) -> str:
    return _folded(Path(file).stem)


def _folded(name: str) -> str:
    """In one case, with single spaces and none at the ends."""
    return " ".join(_composed(name).casefold().split())


_SPELLINGS = ((_stem, _composed), (_composed, _composed), (_folded_stem, _folded), (_folded, _folded))
"""What means a song, and how a file says it, from the plainest on."""


def _hidden(name: str) -> bool:
    """Also AppleDouble files, which macOS puts beside every file on foreign disks as ._name."""
    return name.startswith(".") or name == "__MACOSX"
