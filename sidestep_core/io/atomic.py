"""Files and folders that are either whole or absent.

Every write goes to a temporary sibling, is flushed to the disk, and is renamed over the target, so a crash, a cancel or
a full disk leaves the last good file in place.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import ConfigError, SideStepError
from . import temp_files
from .strict_json import Json


class CannotWrite(SideStepError, OSError):
    """The disk is full or read-only; the previous file is unchanged."""


RENAME_SECONDS = 5.0
"""Time for which a rename is retried on Windows."""


def write_json(path: Path, value: Json) -> None:
    """Write `value` as indented JSON.  ValueError for NaN and infinity, which JSON lacks."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, line ends unchanged."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write the bytes of a file."""
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def copy(source: Path, target: Path) -> None:
    """Copy a file; the target is whole or absent."""
    write_atomically(target, lambda temporary: shutil.copyfile(source, temporary))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write a temporary file, and rename it to `path`; on any failure `path` stays unchanged."""
    with _written(path, write) as temporary:
        rename(temporary, path)


def numbered(path: Path) -> Iterator[Path]:
    """Yield the names for a file that overwrites no other: name, name-2, name-3 ..."""
    yield path
    for number in itertools.count(2):
        yield path.with_stem(f"{path.stem}-{number}")


def write_new(path: Path, write: Callable[[Path], object]) -> bool:
    """Write like write_atomically, but return False and write nothing if `path` exists, even if another process has
    created it in the last moment."""
    if path.exists():
        return False
    with _written(path, write) as temporary:
        return _rename_if_free(temporary, path)


@contextlib.contextmanager
def _written(path: Path, write: Callable[[Path], object]) -> Iterator[Path]:
    """Write a temporary sibling of `path` and flush it to the disk; the block renames it."""
    temporary, folder = temp_files.temp_path(path), temp_files.final_folder(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temp_files.sweep(path.parent)
        write(temporary)
        _flush_to_disk(temporary)
        yield temporary
        _flush_folder(path.parent)
    except OSError as error:
        raise CannotWrite(f"{folder / path.name} could not be written ({error.strerror or error}). Free some space, or "
                          f"make {folder} writable.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path`, which must not exist, at the end of the block, and is removed if
    the block raises."""
    with temp_files.temp_folder(path) as temporary:
        yield temporary
        rename(temporary, path)
        _flush_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder so that it is whole or absent under its name, even if interrupted."""
    doomed = temp_files.temp_path(path)
    rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def require_writable(folder: Path) -> None:
    """Raise ConfigError if no file can be written into the folder, before hours of work."""
    try:
        write_bytes(folder / ".writable", b"")
        (folder / ".writable").unlink()
    except OSError as error:
        raise ConfigError(f"Nothing can be written into {folder} ({error}). Make it writable, or free some space."
                          ) from error


def rename(source: Path, target: Path) -> None:
    """Rename over an existing target, if any."""
    _retry_on_windows(lambda: source.replace(target))


def _rename_if_free(source: Path, target: Path) -> bool:
    """Rename a file to a free name; return False if the name is taken."""
    try:
        if os.name == "nt":
            _retry_on_windows(lambda: source.rename(target))
        else:
            target.hardlink_to(source)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        # exFAT and some network drives have no links.
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
    try:
        target.touch(exist_ok=False)
    except FileExistsError:
        return False
    rename(source, target)
    return True


def _retry_on_windows(operation: Callable[[], object]) -> None:
    """Retry for a while on Windows, where a virus scanner or a cloud drive may hold a new file open for a moment."""
    deadline = time.monotonic() + (RENAME_SECONDS if os.name == "nt" else 0)
    while True:
        try:
            operation()
            return
        except PermissionError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.1)


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make a rename durable.  Windows cannot open folders, and journals renames itself."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Network and foreign file systems may not support it; the rename itself has been made.
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES, errno.EPERM):
            raise
    finally:
        os.close(handle)
