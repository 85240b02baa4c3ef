"""Audio files below a folder, with the sidecars of each; no file is opened."""

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

SIDECAR_FOLDERS = {
    **dict.fromkeys(("caption", "captions", "prompt", "prompts", "description", "descriptions"), ".caption.txt"),
    **dict.fromkeys(("lyric", "lyrics"), ".lyrics.txt"),
    **dict.fromkeys("annotations json labels meta metadata notes sidecars text texts txt".split(), TEXT_FILE),
}
"""Subfolder for sidecars, in lower case -> suffix that a `song.txt` in it stands for."""

OnSkip = Callable[[str, str], None]
"""Called with the name of each file that is left out, and the reason."""


@dataclass(frozen=True, kw_only=True)
class AudioFile:
    """Audio file with its sidecars: suffix -> path relative to its folder."""

    path: Path
    sidecars: dict[str, str]
    twins: tuple[str, ...] = ()
    """Other audio files that share a sidecar."""


@dataclass(frozen=True, kw_only=True)
class FoundFiles:
    """Files below a folder, by their path relative to it; no hidden ones."""

    songs: dict[str, AudioFile]
    others: tuple[str, ...]
    """Files that are neither audio nor a sidecar, sorted."""


def find_files(root: Path, on_skip: OnSkip, tick: Tick = lambda: None) -> FoundFiles:
    """Find every file below a folder, opening none (io/walk.py)."""
    listed = dict(_listings(root, on_skip, tick))
    songs: dict[str, AudioFile] = {}
    used: set[str] = set()
    for folder, files in listed.items():
        sidecar_folders = {below.name: listed[below] for below in _sidecar_folders(folder, listed)}
        for song in _matched(folder, files, sidecar_folders):
            songs[relative(song.path, root)] = song
            used.update(relative(folder / sidecar, root) for sidecar in song.sidecars.values())
    every = {relative(folder / file, root) for folder, files in listed.items() for file in files}
    return FoundFiles(songs=songs, others=tuple(sorted(every - used - songs.keys())))


def _listings(root: Path, on_skip: OnSkip, tick: Tick) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder with the names of its files, without hidden ones and links out of the root."""
    def leave_out(path: Path, reason: str) -> None:
        on_skip(relative(path, root), reason)

    for folder, files in walk.walk(root, leave_out, tick, hidden=False):
        if folder.name != "__MACOSX" or folder == root:
            yield folder, [name for name in files if not _hidden(name)]


def sidecars_of(song: Path, root: Path | None = None) -> dict[str, str]:
    """Find the sidecars of one song: suffix -> path relative to its folder.  Links out of `root` (default: its folder)
    are not followed."""
    stem, top = _folded(song.stem), os.path.realpath(root or song.parent)

    def files_in(folder: Path) -> list[str]:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if _folded(entry.name).startswith(stem) and entry.is_file()
                    and not walk.leads_out(entry, top)]

    with os.scandir(song.parent) as entries:
        folders = [song.parent / entry.name for entry in entries if entry.name.lower() in SIDECAR_FOLDERS
                   and entry.is_dir(follow_symlinks=False)]
    sidecar_folders = {folder.name: files_in(folder) for folder in sorted(folders)}
    found = _matched(song.parent, files_in(song.parent), sidecar_folders)
    return next((file.sidecars for file in found if file.path.name == song.name), {})


def relative(path: Path, root: Path) -> str:
    """Path relative to the root, with forward slashes."""
    return path.relative_to(root).as_posix()


def printable(name: str) -> str:
    """Replace the bytes of a name that no text file, and so no dataset, can hold."""
    return name.encode("utf-8", "replace").decode()


def no_audio_reason(folder: Path) -> str:
    """Sentence with the file endings looked for and those found instead."""
    endings = Counter(Path(name).suffix.lower() or "no ending" for _, files in walk.walk(folder)
                      for name in files)
    others = ", ".join(f"{count} x {ending}" for ending, count in endings.most_common(5)) or "no file at all"
    return f"Looked for {' '.join(sorted(EXTENSIONS))}; found {others}."


def _sidecar_folders(folder: Path, listed: Mapping[Path, object]) -> list[Path]:
    return [below for below in listed if below.parent == folder and below.name.lower() in SIDECAR_FOLDERS]


def _matched(folder: Path, files: Sequence[str], sidecar_folders: Mapping[str, Sequence[str]]) -> list[AudioFile]:
    """Match the songs of a folder with their sidecars there and in the sidecar folders below (name -> files).

    A sidecar has the song's stem, or else its whole name, or else either of them folded if that fits one song only.
    The nearer match wins; of two equally near files neither is used.
    """
    songs = [file for file in files if is_audio(file)]
    sidecars: dict[str, dict[str, str]] = {song: {} for song in songs}
    for subfolder, names in {"": files, **sidecar_folders}.items():
        # Files beside audio in a sidecar folder belong to that audio.
        theirs = [name for name in names if is_audio(name)] if subfolder else []
        left = [name for name in names if not is_audio(name) and not _match(name, _owners(theirs, _stem), _composed)]
        for key_of, spelled in _SPELLINGS:
            owners = _owners(songs, key_of)
            matches = {name: match for name in left if (match := _match(name, owners, spelled))}
            wanted: dict[tuple[str, str], list[str]] = defaultdict(list)
            for name, (suffix, meant) in matches.items():
                slot = SIDECAR_FOLDERS[subfolder.lower()] if subfolder and suffix == TEXT_FILE else suffix
                for song in meant:
                    wanted[song, slot].append(f"{subfolder}/{name}" if subfolder else name)
            for (song, slot), found in wanted.items():
                if len(found) == 1:
                    sidecars[song].setdefault(slot, found[0])
            left = [name for name in left if name not in matches]
    sharing: dict[str, list[str]] = defaultdict(list)
    for song in songs:
        for sidecar in sidecars[song].values():
            sharing[sidecar].append(song)
    return [AudioFile(path=folder / song, sidecars=sidecars[song], twins=tuple(dict.fromkeys(
        other for sidecar in sidecars[song].values() for other in sharing[sidecar] if other != song)))
        for song in songs]


def _owners(songs: Sequence[str], key_of: Callable[[str], str]) -> dict[str, list[str]]:
    """Group songs by key."""
    owners: dict[str, list[str]] = defaultdict(list)
    for song in songs:
        owners[key_of(song)].append(song)
    return owners


def _match(file: str, owners: Mapping[str, list[str]], spelled: Callable[[str], str]) -> tuple[str, list[str]] | None:
    """Suffix that makes a file a sidecar, and its songs; None where it could belong to several stems."""
    for suffix in SIDECARS:
        # song_lyrics.txt is the lyrics of song.wav, unless there is a song_lyrics.wav that it belongs to.
        if file.lower().endswith(suffix) and (songs := owners.get(spelled(file[: -len(suffix)]))):
            return (suffix, songs) if len({_stem(song) for song in songs}) == 1 else None
    return None


def is_audio(file: str) -> bool:
    """True if the file's ending is that of audio."""
    return Path(file).suffix.lower() in EXTENSIONS


def _stem(file: str) -> str:
    return _composed(Path(file).stem)


def _composed(name: str) -> str:
    """Compose the characters of a name, as macOS decomposes them."""
    return unicodedata.normalize("NFC", name)


def _folded_stem(file: str) -> str:
    return _folded(Path(file).stem)


def _folded(name: str) -> str:
    """Fold case, and white space to single spaces."""
    return " ".join(_composed(name).casefold().split())


_SPELLINGS = ((_stem, _composed), (_composed, _composed), (_folded_stem, _folded), (_folded, _folded))
"""(key of a song, spelling of a file) from the strictest match on."""


def _hidden(name: str) -> bool:
    """True for hidden files, AppleDouble files of macOS (._name) included."""
    return name.startswith(".") or name == "__MACOSX"
