"""Adapters down: the rest of what an earlier attempt has brought, compared with its SHA-256, then under its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from sidestep_core.errors import InUse
from sidestep_core.io import atomic, hashing, locks
from sidestep_core.io.record import Between, Matching, Record, parse
from sidestep_core.progress import Progress, Report

from .patience import Patience
from .server import HASH_SECONDS, Refused, RemoteError, Server, Unreachable, part

BLOCK = 1 << 18
MIB = 1 << 20
TRIES = 2
"""Attempts at a file that arrives with another content."""
WAIT_SECONDS = 1.0
_NAME = re.compile(r"[^\\/:*?\"<>|\x00-\x1f]*\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Offer(Record):
    """A published adapter of a run."""

    name: Annotated[str, Matching(_NAME, "the name of an adapter file")]
    size: Annotated[int, Between(1)]
    sha256: Annotated[str, Matching(_SHA256, "64 hex digits")]


def offers(server: Server, run: str) -> tuple[Offer, ...]:
    """Published adapters of a run, oldest first."""
    try:
        answer: Any = server.get(f"/sidestep/runs/{part(run)}/adapters", seconds=HASH_SECONDS)
    except Refused as error:
        if error.code in (404, 405):
            raise RemoteError(f"The run {run} is not at {server.url}, or its Side-Step is too old to give adapters "
                              "away. Install this version there, and restart ComfyUI.") from None
        raise
    found: tuple[Offer, ...] = parse(answer.get("adapters") if isinstance(answer, dict) else None, tuple[Offer, ...],
                                     "The adapters")
    return found


def download(server: Server, run: str, offer: Offer, folder: Path, report: Report, patience: Patience) -> Path:
    """Bring an adapter into a folder; return its file, which may be there already.

    A file of another content keeps its name, and -2, -3 ... is added to the new one.  RemoteError if it arrives with
    another content than the server has.
    """
    while not (target := _target(folder, offer)).is_file():
        try:
            with locks.held(folder, "filled"):
                _fetch(server, run, offer, folder, report, patience)
        except InUse:
            patience.sleep(WAIT_SECONDS)  # another command fetches, perhaps the same adapter
    return target


def _fetch(server: Server, run: str, offer: Offer, folder: Path, report: Report, patience: Patience) -> None:
    """Bring the rest of the file, and publish the whole."""
    # The name holds the content: what an attempt has left behind never belongs to another file.
    partial = folder / f".{offer.sha256[:16]}.part"
    for _ in range(TRIES):
        while (have := partial.stat().st_size if partial.exists() else 0) < offer.size:
            patience.call(lambda have=have: _append(server, run, offer, partial, have, report))  # type: ignore[misc]
        if have == offer.size and hashing.hash_file(partial) == offer.sha256:
            atomic.copy(partial, _target(folder, offer))
            partial.unlink()
            return
        partial.unlink()
    raise RemoteError(f"{offer.name} arrives with another content than it has at {server.url}. Something between here "
                      "and there changes it, or it was replaced meanwhile. Run the same command again.")


def _target(folder: Path, offer: Offer) -> Path:
    """File to write: the first free name, or the one that has this content."""
    for path in atomic.numbered(folder / offer.name):
        if not path.exists() or (path.is_file() and path.stat().st_size == offer.size
                                 and hashing.hash_file(path) == offer.sha256):
            return path
    raise AssertionError("names do not end")


def _append(server: Server, run: str, offer: Offer, partial: Path, have: int, report: Report) -> None:
    """Add to the file what the server sends from this byte on.  Unreachable if the connection ends before."""
    headers = {"Range": f"bytes={have}-"} if have else {}
    path = f"/sidestep/runs/{part(run)}/adapters/{part(offer.name)}"
    with server.opened(path, headers=headers) as reply:
        start = have = 0 if reply.status == 200 else have
        for block in _blocks(reply.read):
            if have + len(block) > offer.size:
                raise RemoteError(f"{offer.name} is longer than the {offer.size} bytes that {server.url} told. Run the "
                                  "same command again.")
            _add(partial, block, new=have == 0)
            have += len(block)
            if have // MIB != (have - len(block)) // MIB or have - len(block) == start:
                report(Progress(stage="save", step=have // MIB, total=max(1, offer.size // MIB),
                                message=f"Fetching {offer.name}"))
        if have < offer.size:
            raise Unreachable(f"{server.url} sent {have} of {offer.size} bytes of {offer.name}.")


def _add(partial: Path, block: bytes, *, new: bool) -> None:
    """Write to the end of the file.  RemoteError where the disk here fails, which is no failure of the connection."""
    try:
        with partial.open("wb" if new else "ab") as file:
            file.write(block)
    except OSError as error:
        raise RemoteError(f"{partial.parent} cannot be written ({error.strerror}). Free some space, or give another "
                          "--output-dir.") from error


def _blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while block := read(BLOCK):
        yield block
