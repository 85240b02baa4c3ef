"""`remote`: flags, and the order of everything."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidestep_core.errors import ConfigError
from sidestep_core.io import strict_json
from sidestep_core.progress import Cancelled

from ..console import Output
from ..stop import Stop, stoppable
from . import download, queued, upload, watch, workflow
from .credentials import KEY, address, credentials
from .patience import Patience
from .queued import Ending
from .server import RemoteError, Server, Unreachable, require_comfyui
from .workflow import TRAINER, Workflow

HOST = "http://127.0.0.1:8188"
ADAPTERS = Path("adapters")
LEAVING = "Ending here; the server is left alone. Press Ctrl-C again to end at once."
STOPPING = "Stopping it at the server, and keeping it. Press Ctrl-C again to end at once, without waiting for that."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `remote`."""
    parser.add_argument("workflow", type=Path, metavar="WORKFLOW", help=(
        "Workflow file, as ComfyUI saves it or as Workflow > Export (API) does."))
    parser.add_argument("--host", default=HOST, metavar="URL", help=f"Address of ComfyUI. Default: {HOST}, as a tunnel "
                        "has it.")
    parser.add_argument("--auth", metavar="KIND", help=(
        "Login of the host: bearer, basic, or the name of the header that it wants. The key comes from the environment "
        f"variable {KEY} (name:password for basic), or is asked for; it is never written anywhere."))
    group = parser.add_argument_group("Songs and adapters")
    group.add_argument("--songs", type=Path, metavar="FOLDER", help=(
        "Folder of songs to send. What the server has already is not sent again; the workflow reads these songs."))
    group.add_argument("--as", dest="name", metavar="NAME", help=(
        "Name of the folder there. Default: that of --songs."))
    group.add_argument("--set", dest="changes", action="append", type=_change, default=[],
                       metavar="NODE.INPUT=VALUE", help="Change a value of the workflow, such as 4.max_steps=500.")
    group.add_argument("--output-dir", type=Path, default=ADAPTERS, metavar="FOLDER", help=(
        f"Folder for the adapters. Default: {ADAPTERS}."))
    group = parser.add_argument_group("A workflow that runs there")
    group.add_argument("--attach", action="store_true", help="Only watch, and fetch the adapters; start nothing.")
    group.add_argument("--stop", action="store_true", help=(
        "Stop the workflow there, keep the run, and fetch the adapter so far."))
    group.add_argument("--ctrl-c", choices=("detach", "stop"), default="detach", help=(
        "What Ctrl-C does: detach leaves the workflow running there, stop stops it. Default: detach."))


def run(arguments: argparse.Namespace, output: Output) -> None:
    """Run `remote`."""
    url = address(arguments.host)
    server = Server(url, credentials(arguments.auth, url))
    with stoppable(output, notice=STOPPING if arguments.ctrl_c == "stop" else LEAVING) as stop:
        tick = _raising(stop, "Nothing was started at the server. What was sent stays there.")
        version = require_comfyui(server)
        given = workflow.load(arguments.workflow, server, arguments.changes)
        adapters = len(given.nodes(TRAINER))
        output.table("Remote", [("ComfyUI", f"{version} at {url}"), ("Workflow", arguments.workflow.name),
                                ("Trainings", str(adapters)), ("Adapters go to", str(arguments.output_dir))])
        patience = Patience(output, tick)
        given = _with_songs(given, server, arguments, output, stop, patience)
        ending = _ended(given, server, arguments, output, stop)
        _fetch(ending, given, server, arguments.output_dir, output, stop)
    if ending.status == "finished" and not adapters:
        output.result({"status": ending.status}, "The workflow is done. Its results are in the server's output folder.")
    if ending.status == "failed":
        raise RemoteError(f"The workflow ended with an error. {ending.message}")
    if ending.status == "stopped" and not arguments.stop:
        raise Cancelled("The workflow was stopped at the server, and what it made is kept there.")


def _raising(stop: Stop, message: str) -> Callable[[], None]:
    """Make a function that raises Cancelled once Ctrl-C was pressed."""
    def tick() -> None:
        if stop.asked:
            raise Cancelled(message)

    return tick


def _with_songs(given: Workflow, server: Server, arguments: argparse.Namespace, output: Output, stop: Stop,
                patience: Patience) -> Workflow:
    """Send the songs, and let the workflow read them."""
    if arguments.songs is None:
        if arguments.name is not None:
            raise ConfigError(f"--as {arguments.name} is the folder for --songs, which is missing. Give both, or "
                              "neither.")
        return given
    folder: Path = arguments.songs.expanduser().absolute()
    name = arguments.name or folder.name
    if not (arguments.attach or arguments.stop):
        workflow.with_songs(given, name)  # a workflow that reads none is refused before anything is sent
        sent = upload.upload(server, folder, name, output, stop.reporting(), patience)
        name = sent.folder
        output.line(f"{sent.files} files in input/{name} of the server, {sent.sent} sent now.")
    else:
        name = upload.folder_name(server, name)
    return workflow.with_songs(given, name)


def _ended(given: Workflow, server: Server, arguments: argparse.Namespace, output: Output, stop: Stop) -> Ending:
    """Find the workflow on the server or start it there, and watch it to its end."""
    patience = Patience(output, _raising(stop, "Nothing was started at the server."))
    found = patience.call(lambda: queued.find(server, given))
    if arguments.stop and found is not None:
        output.line("Stopping it; the piece of work in hand is finished and kept.")
        queued.stop(server, given)
        if not found.running:
            return Ending(status="stopped", message="", outputs={}, runs={})
    elif found is None and (arguments.attach or arguments.stop):
        before = queued.last_ending(server, given)
        if before is None:
            raise RemoteError(f"This workflow is not at {server.url}: neither running, waiting nor ended since ComfyUI "
                              "was started. Run the command without --attach to start it; with the same --songs, --as "
                              "and --set it is the same workflow.")
        return before
    elif found is not None:
        output.line("The workflow is at the server already.")
    id = found.id if found else patience.call(lambda: queued.submitted(server, given))
    passed_on = False

    def tick() -> None:
        nonlocal passed_on
        if stop.asked and arguments.ctrl_c == "detach":
            raise Cancelled(f"The workflow goes on at {server.url}, and so does its bill.")
        if stop.asked and not passed_on:
            with contextlib.suppress(Unreachable):  # asked again at the next tick
                queued.stop(server, given)
                passed_on = True

    return watch.watch(server, given, id, output, Patience(output, tick), tick)


def _fetch(ending: Ending, given: Workflow, server: Server, folder: Path, output: Output, stop: Stop) -> None:
    """Bring the adapter of each training here: the finished one, or that of the last step before a stop."""
    # A Ctrl-C that has stopped the workflow asks for the adapter so far; another one ends at once.
    heeded = stop.asked
    patience = Patience(output, (lambda: None) if heeded else _raising(stop, "The adapter stays at the server."))
    report = output.progress if heeded else stop.reporting()
    for node in given.nodes(TRAINER):
        facts = _facts(ending, node)
        run = str(facts.get("run") or ending.runs.get(node) or patience.call(
            lambda node=node: queued.newest_run(server, given, node)))  # type: ignore[misc]
        if not run:
            output.notice(f"{given.name(node)} did not begin to train.")
            continue
        found = patience.call(lambda run=run: download.offers(server, run))  # type: ignore[misc]
        if not found:
            output.notice(f"{given.name(node)} has published no adapter.")
            continue
        path = download.download(server, run, found[-1], folder.expanduser().absolute(), report, patience)
        output.result({"adapter": str(path), "run": run, "sha256": found[-1].sha256,
                       **{name: facts[name] for name in ("steps", "trigger_word") if name in facts}},
                      f"{path} is here, as it is at the server.")


def _facts(ending: Ending, node: str) -> dict[str, Any]:
    """Facts of a finished training that its node shows."""
    shown = ending.outputs.get(node)
    facts = shown.get("sidestep") if isinstance(shown, dict) else None
    return dict(facts[0]) if isinstance(facts, list) and facts and isinstance(facts[0], dict) else {}


def _change(text: str) -> tuple[str, str, Any]:
    """Read NODE.INPUT=VALUE; the value is JSON where it can be, else a text."""
    target, equals, value = text.partition("=")
    node, dot, name = target.partition(".")
    if not (equals and dot and node and name):
        raise argparse.ArgumentTypeError(f"{text!r} is not NODE.INPUT=VALUE, such as 4.max_steps=500")
    try:
        return node, name, strict_json.loads(value)
    except strict_json.BadJson:
        return node, name, value
