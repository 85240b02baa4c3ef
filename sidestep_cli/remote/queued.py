"""Workflows in the server's list and in its record of those that ended: queued, found again, and stopped."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sidestep_core.io import strict_json

from .server import Refused, RemoteError, Server, parsed, part
from .workflow import Workflow

MARK = "side_step_remote"
"""Extra data of a workflow that we queued: its key, by which it is found under any id."""
ENDS: Mapping[str, Literal["finished", "failed", "stopped"]] = {
    "execution_success": "finished", "execution_error": "failed", "execution_interrupted": "stopped"}


@dataclass(frozen=True, kw_only=True)
class Queued:
    """Position of a workflow in the server's list."""

    id: str
    before: int
    """Workflows before it; 0 while it runs."""
    running: bool


@dataclass(frozen=True, kw_only=True)
class Ending:
    """End of a workflow."""

    status: Literal["finished", "failed", "stopped"]
    message: str
    outputs: Mapping[str, Any]
    """Node id -> what it shows."""
    runs: Mapping[str, str]
    """Node id -> run that it was seen to train."""


def find(server: Server, workflow: Workflow) -> Queued | None:
    """Find the workflow in the server's list; None if it neither runs nor waits."""
    queue = server.get("/queue")
    running, pending = ([item for item in queue.get(name) or () if isinstance(item, list) and len(item) > 3]
                        for name in ("queue_running", "queue_pending"))
    for item in running:
        if _is_own(item, workflow):
            return Queued(id=str(item[1]), before=0, running=True)
    for position, item in enumerate(sorted(pending, key=lambda item: item[0])):
        if _is_own(item, workflow):
            return Queued(id=str(item[1]), before=len(running) + position, running=False)
    return None


def _is_own(item: list[Any], workflow: Workflow) -> bool:
    return isinstance(item[3], dict) and item[3].get(MARK) == workflow.key


def submit(server: Server, workflow: Workflow) -> str:
    """Queue the workflow, and return its id.  RemoteError with the reasons where the server refuses it."""
    id = next(id for id in map(workflow.id, itertools.count()) if not server.get(f"/history/{part(id)}"))
    extra: dict[str, Any] = {MARK: workflow.key}
    if workflow.graph is not None:
        extra["extra_pnginfo"] = {"workflow": workflow.graph}
    try:
        answer = server.post("/prompt", {"prompt": workflow.prompt, "prompt_id": id, "client_id": id,
                                         "extra_data": extra})
    except Refused as error:
        if error.code != 400:
            raise
        try:
            reply = strict_json.as_object(parsed(error.body), "The answer")
        except strict_json.BadJson:
            raise error from None
        raise RemoteError(_reasons(reply, workflow)) from None
    if answer.get("node_errors"):
        # ComfyUI takes what is right of it, and leaves the rest out: a training may be in that.
        stop(server, workflow)
        raise RemoteError(_reasons(answer, workflow))
    return str(answer["prompt_id"])


def submitted(server: Server, workflow: Workflow) -> str:
    """Id of the workflow in the server's list; queued if it is not there, as an answer may have been lost."""
    queued = find(server, workflow)
    return queued.id if queued else submit(server, workflow)


def newest_run(server: Server, workflow: Workflow, node: str) -> str:
    """Run that a node has trained last, if it has the name that the workflow gives it; else empty."""
    state = server.get(f"/sidestep/nodes/{part(node)}/history")
    run = str(state.get("run") or "") if isinstance(state, dict) else ""
    name = str(workflow.prompt[node]["inputs"].get("adapter_name", "")).strip().removesuffix(".safetensors")
    return run if run.startswith(f"{name}-") else ""


def stop(server: Server, workflow: Workflow) -> bool:
    """Ask the server to stop the workflow, keeping what is done; False if it has it no more."""
    queued = find(server, workflow)
    if queued is None:
        return False
    if queued.running:
        server.post("/interrupt", {"prompt_id": queued.id})
    else:
        server.post("/queue", {"delete": [queued.id]})
    return True


def last_ending(server: Server, workflow: Workflow) -> Ending | None:
    """End of the newest attempt that the server remembers."""
    found = None
    for id in map(workflow.id, itertools.count()):
        entry = history(server, id)
        if entry is None:
            return found
        found = ending_of(entry, workflow, {})
    return None


def history(server: Server, id: str) -> Mapping[str, Any] | None:
    """The server's record of an ended workflow; None before its end."""
    answer = server.get(f"/history/{part(id)}")
    entry = answer.get(id) if isinstance(answer, dict) else None
    return entry if isinstance(entry, dict) else None


def ending_of(entry: Mapping[str, Any], workflow: Workflow, runs: Mapping[str, str]) -> Ending:
    messages = (entry.get("status") or {}).get("messages") or ()
    for kind, facts in reversed(messages):
        if kind in ENDS:
            message = ""
            if kind == "execution_error":
                node = str(facts.get("node_id"))
                message = f"{workflow.name(node)}: {str(facts.get('exception_message', '')).strip()}"
            return Ending(status=ENDS[kind], message=message, outputs=entry.get("outputs") or {}, runs=dict(runs))
    return Ending(status="stopped", message="", outputs={}, runs=dict(runs))


def _reasons(reply: Mapping[str, Any], workflow: Workflow) -> str:
    """Words for a workflow that the server refuses, or a part of it, by node."""
    lines = []
    for node, report in (reply.get("node_errors") or {}).items():
        for error in report.get("errors") or ():
            lines.append(f"  {workflow.name(str(node))}: {error.get('message')}: {error.get('details')}")
    error = reply.get("error") or {}
    first = f"{error.get('message', '')} {error.get('details', '')}".strip() if isinstance(error, dict) else str(error)
    return "\n".join([f"ComfyUI refuses the workflow: {'' if lines else first}".rstrip(), *lines])
