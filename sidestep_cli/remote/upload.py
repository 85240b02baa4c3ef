"""Songs up: what the server has with the same content is not sent again, and what arrived is compared.

ComfyUI's own route takes the files, one by one, and writes each when all of it is there: an interrupted upload goes on
with the file that it was in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidestep_core.errors import DatasetError
from sidestep_core.io import hashing, walk
from sidestep_core.io.record import Record
from sidestep_core.progress import Progress, Report
from sidestep_core.songs.files import EXTENSIONS
from sidestep_core.songs.lists import TEXT_ENDINGS

from ..console import Output
from .patience import Patience
from .server import HASH_SECONDS, Refused, RemoteError, Server, Unreachable

BLOCK = 1 << 18
SHOWN = 5
MIB = 1 << 20
TRIES = 5
"""Attempts to send a file to a server that answers in between."""


@dataclass(frozen=True, kw_only=True)
class Planned(Record):
    """Target of a file, or the reason why it is left out."""

    path: str
    folder: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan(Record):
    """Answer of the server to a list of files."""

    folder: str
    files: tuple[Planned, ...]
    there: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sent:
    """Outcome of an upload."""

    folder: str
    """Folder of the server's input folder."""
    files: int
    sent: int
    """Files that were not there yet."""


def upload(server: Server, folder: Path, name: str, output: Output, report: Report, patience: Patience) -> Sent:
    """Bring the songs and texts of a folder into the folder `name` of the server's input folder.

    DatasetError if there is no song here; RemoteError if the server refuses, or something arrives damaged.
    """
    offered = list(_offered(folder, report))
    plan = _planned(server, name, offered)
    for file in plan.files:
        if file.reason:
            output.notice(f"{file.path} is not sent: {file.reason}")
    wanted = [file for file in plan.files if not file.reason and file.path not in plan.there]
    sizes = {str(file["path"]): int(file["size"]) for file in offered}
    total, done = sum(sizes[file.path] for file in wanted), 0

    def sending(file: Planned) -> Callable[[int], None]:
        def tick(bytes_sent: int) -> None:
            patience.tick()
            if not bytes_sent or bytes_sent // MIB != (bytes_sent - BLOCK) // MIB:
                report(Progress(stage="load", step=(done + bytes_sent) // MIB, total=max(1, total // MIB),
                                message=f"Sending {file.path}"))

        return tick

    for file in wanted:
        _bring(server, folder / file.path, sizes[file.path], file, sending(file), patience)
        done += sizes[file.path]
    if wanted:
        _require_arrived(_planned(server, name, offered))
    if plan.others:
        more = f" and {len(plan.others) - SHOWN} others" if len(plan.others) > SHOWN else ""
        output.notice(f"input/{plan.folder} of the server also holds {', '.join(plan.others[:SHOWN])}{more}: songs "
                      "among them are used too. Delete them there, or send the songs to another folder with --as.")
    return Sent(folder=plan.folder, files=sum(not file.reason for file in plan.files), sent=len(wanted))


def _offered(folder: Path, report: Report) -> Iterator[Mapping[str, Any]]:
    """Yield path, size and hash of each song and text."""
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}. Give --songs with the folder of your songs.")
    found = [below / name for below, names in walk.walk(folder, hidden=False) for name in names
             if not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS | TEXT_ENDINGS]
    if not any(path.suffix.lower() in EXTENSIONS for path in found):
        raise DatasetError(f"{folder} has no song. Give --songs with the folder of your songs.")
    for number, path in enumerate(found):
        name = path.relative_to(folder).as_posix()

        def tick(number: int = number, name: str = name) -> None:
            report(Progress(stage="load", step=number, total=len(found), message=f"Looking at {name}"))

        try:
            yield {"path": name, "size": path.stat().st_size, "sha256": hashing.hash_file(path, tick)}
        except OSError as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DatasetError:
    return DatasetError(f"{path} cannot be read ({error.strerror}). Make it readable, or take it out of the folder.")


def _planned(server: Server, name: str, offered: Sequence[Mapping[str, Any]]) -> Plan:
    try:
        answer = server.post("/sidestep/song_folders/resume", {"name": name, "files": offered}, seconds=HASH_SECONDS)
    except Refused as error:
        if error.code in (404, 405):
            raise RemoteError(f"Side-Step at {server.url} is missing, or too old to take songs. Install this version "
                              "of Side-Step there, and restart ComfyUI.") from None
        raise RemoteError(server.credentials.hide(error.body.decode(errors="replace"))
                          if error.code == 422 else str(error)) from None
    plan = Plan.from_json(answer, "The answer", allow_unknown=True)
    # Files are read by what the server names: only what it was offered.
    if {file.path for file in plan.files} != {file["path"] for file in offered}:
        raise RemoteError(f"{server.url} answers with other files than it was offered. Is it Side-Step?")
    return plan


def folder_name(server: Server, name: str) -> str:
    """Ask the server for the name that a folder gets there."""
    return _planned(server, name, [{"path": "song.wav", "size": 1}]).folder


def _require_arrived(plan: Plan) -> None:
    missing = [file.path for file in plan.files if not file.reason and file.path not in plan.there]
    if missing:
        raise RemoteError(f"{len(missing)} files did not arrive as they were sent, the first is {missing[0]}. If they "
                          "changed meanwhile, or the server's disk is full, mend that; then run the same command.")


def _bring(server: Server, path: Path, size: int, file: Planned, tick: Callable[[int], None],
           patience: Patience) -> None:
    """Send a file, again if the connection ends.  RemoteError if the server answers, but not to this file."""
    for _ in range(TRIES):
        try:
            _send(server, path, size, file, tick)
        except Unreachable:
            patience.call(lambda: server.get("/system_stats"))
        else:
            return
    raise RemoteError(f"The connection ended {TRIES} times while {file.path} was sent ({size / MIB:.0f} MB). A proxy "
                      "before ComfyUI may limit the size: raise it there, or use a tunnel.")


def read(path: Path, start: int, count: int) -> bytes:
    """Read a part of a file.  DatasetError where that fails, which is no failure of the connection."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(count)
    except OSError as error:
        raise _unreadable(path, error) from error


def _send(server: Server, path: Path, size: int, file: Planned, tick: Callable[[int], None]) -> None:
    """Send a file through ComfyUI's upload route."""
    boundary = f"side-step-{os.urandom(16).hex()}"
    fields = {"type": "input", "subfolder": file.folder, "overwrite": "true"}
    head = "".join(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
                   for name, value in fields.items())
    head += (f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{file.name}"\r\n'
             "Content-Type: application/octet-stream\r\n\r\n")
    start, end = head.encode(), f"\r\n--{boundary}--\r\n".encode()

    def body() -> Iterator[bytes]:
        yield start
        left = size
        while left:
            tick(size - left)
            block = read(path, size - left, min(BLOCK, left))
            if not block:
                raise DatasetError(f"{path} became shorter while it was sent. Run the same command again.")
            left -= len(block)
            yield block
        yield end

    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}",
               "Content-Length": str(len(start) + size + len(end))}
    with server.opened("/upload/image", body(), headers, seconds=HASH_SECONDS) as reply:
        reply.read()
