"""Files that are either whole or absent: atomic writes of safetensors and JSON, and content fingerprints.

The only module that imports safetensors.  Every write goes to a temporary sibling, is flushed to the disk, and is
renamed over the target, so a crash, a cancel or a full disk leaves the last good file in place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, SideStepError
from . import strict_json, temp_files
from . import tensors as tensor_header
from .tensors import StoredTensor

if TYPE_CHECKING:
    from torch import Tensor


Json = strict_json.Json


class BadTensorFile(SideStepError):
    """A file is not safetensors, or is cut off."""


class CannotWrite(SideStepError, OSError):
    """The disk is full, or does not let us; what was there before is unchanged."""


RENAME_SECONDS = 5.0


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Make a rename durable.  Windows cannot open folders and journals renames by itself."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Network and foreign file systems may not know how; the rename itself has been made.
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES, errno.EPERM):
            raise
    finally:
        os.close(handle)


def _rename(source: Path, target: Path) -> None:
    """Rename over what is there, if anything."""
    _patiently(lambda: source.replace(target))


def _patiently(rename: Callable[[], object]) -> None:
    """Try again for a while: on Windows a virus scanner or a cloud drive may have the new file open for a moment."""
    patience_ends = time.monotonic() + (RENAME_SECONDS if os.name == "nt" else 0)
    while True:
        try:
            rename()
            return
        except PermissionError:
            if time.monotonic() >= patience_ends:
                raise
            time.sleep(0.1)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` write the file it is given, which then becomes `path`; whatever stops it, `path` stays as it was."""
    with _written(path, write) as temporary:
        _rename(temporary, path)


def write_new(path: Path, write: Callable[[Path], object]) -> bool:
    """Like write_atomically, but False, with nothing written, where there is something at `path`: also what another
    process has put there meanwhile."""
    if path.exists():
        return False
    with _written(path, write) as temporary:
        return _claim(temporary, path)


@contextlib.contextmanager
def _written(path: Path, write: Callable[[Path], object]) -> Iterator[Path]:
    """A file beside `path` as `write` writes it, flushed to the disk; the block gives it its name."""
    temporary, folder = temp_files.temporary(path), temp_files.future(path.parent)
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


def _claim(source: Path, target: Path) -> bool:
    """Give the file a name that is free; False where it is taken."""
    try:
        if os.name == "nt":
            _patiently(lambda: source.rename(target))
        else:
            target.hardlink_to(source)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        # exFAT and some network drives know no links.
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
    try:
        target.touch(exist_ok=False)
    except FileExistsError:
        return False
    _rename(source, target)
    return True


def require_writable(folder: Path) -> None:
    """ConfigError when no file can be put into the folder, for knowing it before hours of work."""
    try:
        write_bytes(folder / ".writable", b"")
        (folder / ".writable").unlink()
    except OSError as error:
        raise ConfigError(f"Nothing can be written into {folder} ({error}). Make it writable, or free some space."
                          ) from error


def write_json(path: Path, value: Json) -> None:
    """Write `value` as readable JSON; NaN and infinity are refused, as no other program reads them."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, with the line ends that the text has."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of any other kind."""
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_json(path: Path) -> Json:
    """The content of a JSON file; strict_json.BadJson where it is none that can be used."""
    return strict_json.read(path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, readable by everyone the folder is readable by."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}

    def write(temporary: Path) -> None:
        # safetensors >= 0.8 creates files with mode 600; a LoRA on a shared drive must stay readable.
        temporary.touch()
        usual_mode = temporary.stat().st_mode
        # It writes beside the file first, under a name that tells nothing of who writes.
        with temp_files.temporary_folder(temporary) as folder:
            try:
                save_file(contiguous, folder / "x", metadata=dict(metadata or {}))
                tensor_header.sort_metadata(folder / "x")
            except SafetensorError as error:
                # Its only way to say that the disk is full.
                raise OSError(str(error)) from error
            _rename(folder / "x", temporary)
        if temporary.stat().st_mode != usual_mode:
            temporary.chmod(usual_mode)

    write_atomically(path, write)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, on the CPU.  BadTensorFile when it is not one, or cut off."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise BadTensorFile(f"{path}: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The string metadata in the header of a safetensors file.  BadTensorFile when it is not one, or cut off."""
    return TensorFile(path).metadata


class TensorFile:
    """A safetensors file, read tensor by tensor.  Opening reads the header only: BadTensorFile when it is not
    safetensors or shorter than its header says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stored, self.metadata = _read_header(path)

    def tensor(self, name: str) -> Tensor:
        """The tensor as stored, on the CPU, memory-mapped: copy before writing into it.

        Made outside inference mode, so that autograd may keep it.
        """
        import torch

        with torch.inference_mode(False):
            tensor: Tensor = self._mapped.get_tensor(name)
        return tensor

    def pieces(self, name: str, size: int) -> Iterator[bytes]:
        """The tensor's bytes, `size` at a time."""
        stored = self.stored[name]
        with self.path.open("rb") as file:
            file.seek(stored.start)
            for begin in range(0, stored.size, size):
                yield file.read(min(size, stored.size - begin))

    def sample(self, name: str, count: int) -> bytes:
        """Up to `count` of the tensor's bytes, from its middle."""
        stored = self.stored[name]
        with self.path.open("rb") as file:
            file.seek(stored.start + max(0, stored.size - count) // 2)
            return file.read(min(count, stored.size))

    @cached_property
    def _mapped(self) -> Any:
        from safetensors import safe_open

        return safe_open(self.path, framework="pt")


def _read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    try:
        return tensor_header.read(path)
    except strict_json.BadJson as error:
        raise BadTensorFile(f"{path.name} {error}") from error


def copy(source: Path, target: Path) -> None:
    """Copy a file; the target is whole or absent."""
    write_atomically(target, lambda temporary: shutil.copyfile(source, temporary))


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` (which must not exist yet) when the block ends without an exception,
    and vanishes otherwise."""
    with temp_files.temporary_folder(path) as temporary:
        yield temporary
        _rename(temporary, path)
        _flush_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder so that it is whole or absent under its name, whenever this is interrupted."""
    doomed = temp_files.temporary(path)
    _rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def hash_file(path: Path, tick: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits; `tick` is called for every piece of them."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
            tick()
    return digest.hexdigest()


def fingerprint(*parts: Json) -> str:
    """16 hex digits that change when any of the JSON-able parts changes."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
