"""Names under which a person's songs are uploaded to ComfyUI's input folder; nothing is written here.

The page sends the files through ComfyUI's own upload route, one by one, to the names of a plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import folder_paths
from comfy.cli_args import args

from ...sidestep_core.errors import ConfigError
from ...sidestep_core.io import hashing, walk
from ...sidestep_core.io.record import Record
from ...sidestep_core.sentence import Sentence
from ...sidestep_core.songs.files import EXTENSIONS
from ...sidestep_core.songs.lists import TEXT_ENDINGS
from ..host import folders
from ..host.wording import sentence

MAX_FILES = 20_000
NAME_CHARACTERS = 150
"""Most characters of a song's name; titles are longer than names of adapters."""


@dataclass(frozen=True, kw_only=True)
class Offered(Record):
    """File that a person chose, by its path below the chosen folder."""

    path: str
    size: int
    sha256: str = ""
    """64 hex digits, to find out whether the folder has the file; empty where nobody asks."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Target of an offered file, or the reason why it is left out."""

    path: str
    folder: str = ""
    """Folder below ComfyUI's input folder, with forward slashes."""
    name: str = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class UploadPlan:
    """New folder of the input folder, and the target of each file in it."""

    folder: str
    files: tuple[Target, ...]


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """Upload into a folder that may be there: the target of each file, and what there is already."""

    folder: str
    files: tuple[Target, ...]
    there: tuple[str, ...]
    """Offered files, by their paths, that the folder has with the same content."""
    others: tuple[str, ...]
    """Files of the folder that were not offered."""


def largest_upload() -> int:
    """Largest request in bytes that this ComfyUI takes."""
    return round(args.max_upload_size * 1024 * 1024)


def plan(name: str, offered: Sequence[Offered]) -> UploadPlan:
    """Give each song and text file a safe name in a new folder, and each other file the reason why it stays out.

    Text files stay with their song, under its new name.  ConfigError without a single song.
    """
    return _planned(_free(folders.cleaned_name(name, "The name of the folder")), offered)


def resume(name: str, offered: Sequence[Offered]) -> Resumption:
    """Plan an upload into the folder of this name, and compare the files there with those that are offered.

    ConfigError without a single song.
    """
    made = _planned(folders.cleaned_name(name, "The name of the folder"), offered)
    root = Path(folder_paths.get_input_directory())
    known = {file.path: file for file in offered}
    targets = {f"{file.folder}/{file.name}": file.path for file in made.files if file.name}
    below = [(folder / name).relative_to(root).as_posix()
             for folder, names in walk.walk(root / made.folder, hidden=False) for name in names]
    return Resumption(folder=made.folder, files=made.files, others=tuple(name for name in below if name not in targets),
                      there=tuple(targets[name] for name in below
                                  if name in targets and _is_same(root / name, known[targets[name]])))


def _is_same(path: Path, offered: Offered) -> bool:
    """Compare a file with an offered one; the whole file is read only if its size is right."""
    return (bool(offered.sha256) and path.stat().st_size == offered.size
            and hashing.hash_file(path) == offered.sha256.lower())


def _planned(top: str, offered: Sequence[Offered]) -> UploadPlan:
    if len(offered) > MAX_FILES:
        raise ConfigError(f"These are {len(offered)} files; at most {MAX_FILES} can be uploaded at once.")
    targets, stems = _target_songs(top, [file for file in offered if _ending(file) in EXTENSIONS])
    texts = [_target_text(top, file, stems) for file in offered if _ending(file) in TEXT_ENDINGS]
    others = [_left_out(file, _foreign(file)) for file in offered if _ending(file) not in EXTENSIONS | TEXT_ENDINGS]
    files = (*targets, *texts, *others)
    if not any(file.name for file in targets):
        reasons = "; ".join(f"{file.path}: {file.reason}" for file in files[:3]) or "no file was chosen"
        raise ConfigError(f"There is no song to upload ({reasons}). Songs end in "
                          f"{' '.join(sorted(EXTENSIONS))}.")
    return UploadPlan(folder=top, files=files)


def _target_songs(top: str, songs: Sequence[Offered]) -> tuple[list[Target], dict[tuple[str, str], str]]:
    """Targets of songs, and (folder, stem) -> new stem of those that are uploaded."""
    targets, stems, taken = [], {}, set()
    for file in songs:
        path = PurePosixPath(file.path)
        target = _usable(top, file)
        if target.name:
            stem, number = PurePosixPath(target.name).stem, 2
            while (target.folder, target.name.lower()) in taken:
                target, number = replace(target, name=f"{stem}-{number}{path.suffix}"), number + 1
            taken.add((target.folder, target.name.lower()))
            stems[path.parent.as_posix(), path.stem] = PurePosixPath(target.name).stem
        targets.append(target)
    return targets, stems


def _target_text(top: str, file: Offered, stems: Mapping[tuple[str, str], str]) -> Target:
    """Target of a text file, under the new name of the song that its name begins with."""
    path = PurePosixPath(file.path)
    target = _usable(top, file)
    songs = [stem for folder, stem in stems if folder == path.parent.as_posix() and path.name.startswith(stem)]
    if target.name and songs:
        stem = max(songs, key=len)
        ending = folders.cleaned_name(f"_{path.name[len(stem):]}", "Its name", NAME_CHARACTERS)[1:]
        target = replace(target, name=stems[path.parent.as_posix(), stem] + ending)
    return target


def _usable(top: str, file: Offered) -> Target:
    """Target of a file by its cleaned name, or the reason why it cannot be uploaded."""
    if file.size <= 0:
        return _left_out(file, Sentence("It is empty (0 bytes). Copy it again."))
    if file.size >= largest_upload():
        return _left_out(file, Sentence(
            "It has {size} MB; this ComfyUI takes at most {most} MB. Start it with a higher --max-upload-size, or save "
            "the song as FLAC.", size=round(file.size / 2**20), most=args.max_upload_size))
    *above, name = PurePosixPath(file.path).parts
    try:
        parts = [folders.cleaned_name(part, "The name of its folder") for part in above]
        return Target(path=file.path, folder="/".join((top, *parts)),
                      name=folders.cleaned_name(name, "Its name", NAME_CHARACTERS))
    except ConfigError as error:
        return _left_out(file, sentence(error))


def _left_out(file: Offered, reason: str) -> Target:
    return Target(path=file.path, reason=reason)


def _foreign(file: Offered) -> Sentence:
    if ending := _ending(file):
        return Sentence("{ending} is neither audio nor a text about it.", ending=ending)
    return Sentence("A file without an ending is neither audio nor a text about it.")


def _ending(file: Offered) -> str:
    return PurePosixPath(file.path).suffix.lower()


def _free(name: str) -> str:
    """Name of a folder that the input folder does not have yet: -2, -3 ... is added."""
    root, number, free = Path(folder_paths.get_input_directory()), 2, name
    while (root / free).exists():
        free, number = f"{name}-{number}", number + 1
    return free
