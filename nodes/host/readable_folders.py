"""Access to folders and files of songs named by workflows and lists: any while only this computer reaches ComfyUI,
else those in shared folders.

Workflows and lists are strangers' input.  Where others reach ComfyUI, nothing outside of its input and output folders
and those that the administrator lists can be read or found to exist.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path

import folder_paths
from comfy.cli_args import args

from ...sidestep_core.errors import DatasetError

KIND = "sidestep_songs"
"""Key of shared song folders in extra_model_paths.yaml."""
_NETWORK = re.compile(r"[\\/]{2}")
"""Beginning of shares of other computers and of devices on Windows: \\\\server, //server, \\\\?\\, \\\\.\\."""


def require_readable(folder: Path, text: str, *, windows: bool = os.name == "nt") -> None:
    """DatasetError unless a workflow may name this folder, which it calls `text`."""
    if windows and (_NETWORK.match(text) or _on_network(folder)):
        raise DatasetError(f"{text} lies on another computer, or is a device. Connect it to a drive letter, or copy "
                           "the folder to this computer.")
    if not may_read(folder, windows=windows):
        raise unreadable(text)


def may_read(path: Path, *, windows: bool = os.name == "nt") -> bool:
    """True if a file or folder named by a workflow or a list may be read; otherwise nothing of it is revealed.

    Links count as what they lead to.  On Windows a name on another computer is never asked for, as that would log in
    there.
    """
    if windows and _on_network(path):
        return False
    if only_this_computer(args.listen, args.enable_cors_header):
        return True
    try:
        real = Path(os.path.realpath(path))
    except (OSError, ValueError):
        return False  # no path at all
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in _shared())


def unreadable(text: str) -> DatasetError:
    """The error for a folder that is not there; where others reach ComfyUI, also for one that may not be read."""
    if only_this_computer(args.listen, args.enable_cors_header):
        return DatasetError(f"There is no folder {text}. Enter a full path, or one inside ComfyUI's input folder.")
    return DatasetError(f"There is no folder {text} among those that may be read while other computers reach ComfyUI: "
                        f"its input and output folders, and what its administrator lists as {KIND} in "
                        "extra_model_paths.yaml.")


def only_this_computer(listen: str, cors: str | None) -> bool:
    """True if no other computer and no page of another site reaches a ComfyUI with these options."""
    return cors is None and all(map(_is_loopback, (listen or "").split(",")))


def _on_network(path: Path) -> bool:
    return _NETWORK.match(str(path)) is not None


def _is_loopback(address: str) -> bool:
    host = address.strip().strip("[]")
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shared() -> list[str]:
    listed = folder_paths.folder_names_and_paths.get(KIND, ([], set()))[0]
    return [folder_paths.get_input_directory(), folder_paths.get_output_directory(), *listed]
