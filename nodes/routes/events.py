"""Live progress for the browser: a websocket event per point, and the history behind a GET route.

The browser side is web/sidestep.js.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Literal

from aiohttp import web
from server import PromptServer

from ...sidestep_core.io import strict_json
from ...sidestep_core.progress import Progress
from ...sidestep_core.runs import files
from ...sidestep_core.runs.record import Origin
from ...sidestep_core.sentence import Sentence
from ...sidestep_core.training.metrics import MEASURED_ON
from ..host.wording import readable_json, sentence
from . import json_api, run_files
from .history import History, Point, Preview, finite

log = logging.getLogger(__name__)

EVENT = "sidestep.progress"
SECONDS_BETWEEN_EVENTS = 0.1
MAX_HISTORIES = 64
NO_RUN = ""
UNSAVED = "00000000-0000-0000-0000-000000000000"
MAX_WORKFLOW = 4_000_000
"""Characters of a workflow that is kept with its run."""
_SONG, STOPPING_FILE = Sentence("Stopping after this song."), Sentence("Stopping after this file.")
STOPPING = {"analyze": _SONG, "split": _SONG, "clip": _SONG, "preprocess": _SONG, "pause": Sentence("Stopping."),
            "estimate": Sentence("Stopping after this sample."), "train": Sentence("Stopping after this step."),
            "preview": Sentence("Stopping after this preview.")}
"""The work of a stage that is finished before a stop, in words."""

_histories: OrderedDict[str, History] = OrderedDict()
_sent_at: dict[str, float] = {}
_lock = threading.Lock()


def record(node_id: str, run: str, progress: Progress) -> None:
    """Record `progress` of `run` on a node; the next `flush` tells the browsers.  Thread-safe."""
    with _lock:
        _history(node_id, run).update(progress)


def flush(node_id: str) -> None:
    """Tell every browser what was recorded since the last event, at most 10 times a second.  Thread-safe.

    Nothing is dropped: what comes too early waits, and all waiting points travel in the next event.
    """
    with _lock:
        history = _histories.get(node_id)
        now = time.monotonic()
        if history and history.changed and now - _sent_at.get(node_id, 0.0) >= SECONDS_BETWEEN_EVENTS:
            _sent_at[node_id] = now
            _send(history.take_event())


def done(node_id: str, run: str) -> tuple[int, int]:
    """Units done and in all for ComfyUI's own bar, of the training if there is one."""
    with _lock:
        history = _history(node_id, run)
        return history.training or (history.step, history.total)


def stop(node_id: str, run: str) -> None:
    """Tell every browser at once that a stop was asked for and waits for the work in hand."""
    with _lock:
        history = _history(node_id, run)
        history.stop(STOPPING.get(history.stage, STOPPING_FILE), Sentence("What is done is kept."))
        _send(history.take_event())


def announce_request(node_id: str, run: str, message: str) -> None:
    """Tell every browser that a request waits for the end of the step, or with no message that it was taken back."""
    with _lock:
        history = _history(node_id, run)
        history.request(message)
        _send(history.take_event())


def wait(node_id: str, run: str, message: str) -> None:
    """Tell every browser that a training waits for other work, and goes on by itself."""
    with _lock:
        history = _history(node_id, run)
        history.wait(message)
        _send(history.take_event())


def finish(node_id: str, run: str, status: Literal["finished", "cancelled", "failed"], message: str) -> None:
    """Record how `run` ended and tell every browser.  `message` is shown to the person."""
    with _lock:
        history = _history(node_id, run)
        history.end(status, message)
        _send(history.take_event())


def fail(node_id: str, message: str) -> None:
    """Record that a node failed, whether or not a run of it had begun, and tell every browser."""
    with _lock:
        history = _latest(node_id)
        history.end("failed", message)
        _send(history.take_event())


def remember(node_id: str, output: Mapping[str, object]) -> None:
    """Record what a node shows of its result, for a page that is opened later.  An earlier failure is past."""
    with _lock:
        history = _latest(node_id)
        history.output = strict_json.loads(json_api.dumps(output), "What the node shows", unicode=False)
        if history.status != "finished":
            history.end("finished", "")


def remember_source(node_id: str, name: str, output: Mapping[str, object]) -> None:
    """Have the node that is connected to the input `name` of this one show what came of it, in place of its own."""
    link = running_prompt(node_id).get(node_id, {}).get("inputs", {}).get(name)
    if isinstance(link, list):
        remember(str(link[0]), output)
        with _lock:
            _send(_latest(str(link[0])).take_event())


def announce_preview(node_id: str, run: str, preview: Preview) -> None:
    """Record a preview that `run` generated, or failed to, and tell every browser.  Thread-safe."""
    with _lock:
        history = _history(node_id, run)
        history.add_preview(preview)
        _send(history.take_event([preview]))


def replay(node_id: str, run: str, rows: Iterable[Mapping[str, float | str]] = (),
           previews: Iterable[Preview] = (), saved: Iterable[int] = ()) -> None:
    """Record what is on the disk already of a run: rows with `step`, as in its `metrics.jsonl`, previews, and the steps
    of its checkpoints.

    Nothing is sent; the browser asks for the history when the run ends or its page is loaded.
    """
    with _lock:
        history = _history(node_id, run)
        for row in rows:
            history.measured_on = str(row.get(MEASURED_ON, history.measured_on))
            history.add_point(Point(int(row["step"]), finite(row)))
        for preview in previews:
            history.add_preview(preview)
        history.saved = tuple(saved) or history.saved


def _history(node_id: str, run: str) -> History:
    """The history of this run, a new one if the node last reported another run.  Call with the lock held."""
    history = _histories.pop(node_id, None)
    if history is None or history.run != run:
        history = History(node_id=str(node_id), run=str(run), workflow=_workflow_of(node_id))
    _histories[node_id] = history
    if len(_histories) > MAX_HISTORIES:
        oldest, _ = _histories.popitem(last=False)
        _sent_at.pop(oldest, None)
    return history


def _latest(node_id: str) -> History:
    """The node's latest history, if it is of the workflow that is running.  Call with the lock held."""
    history = _histories.get(node_id)
    if history is not None and history.workflow == _workflow_of(node_id):
        return history
    _histories.pop(node_id, None)
    return _history(node_id, NO_RUN)


def _workflow_of(node_id: str) -> str | None:
    """Id of the workflow whose prompt is running, so that a same-numbered node of another tab stays quiet.

    None for a prompt that no browser sent, and for a graph that has no id of its own yet.
    """
    workflow = _running_workflow(node_id).get("id")
    return None if workflow == UNSAVED else workflow


def origin_of(node_id: str) -> Origin:
    """Node and workflow of a training that starts now, for its record."""
    workflow = json_api.dumps(_running_workflow(node_id) or None, ensure_ascii=False)
    if len(workflow) > MAX_WORKFLOW:
        log.warning("The workflow has %.1f MB; it is not kept with the run.", len(workflow) / 1e6)
    return Origin(node_id=str(node_id), workflow_id=_workflow_of(node_id) or "",
                  workflow=workflow if workflow != "null" and len(workflow) <= MAX_WORKFLOW else "")


def _running_workflow(node_id: str) -> Mapping[str, object]:
    """The workflow of the running prompt that has this node, as its page shows it; empty if no browser sent it."""
    for _number, _prompt_id, prompt, extra_data, *_ in _running():
        if node_id in prompt:
            return (extra_data.get("extra_pnginfo") or {}).get("workflow") or {}
    return {}


def running_prompt(node_id: str) -> Mapping[str, dict[str, object]]:
    """The prompt that is running and has this node; empty if none."""
    return next((prompt for _number, _prompt_id, prompt, *_ in _running() if node_id in prompt), {})


def _running() -> list[tuple]:
    return PromptServer.instance.prompt_queue.get_current_queue_volatile()[0]


def _send(event: dict[str, object]) -> None:
    event = readable_json(event)
    # A payload that json cannot serialise ends the host's publish loop and with it the whole server: prove it here.
    json_api.dumps(event)
    PromptServer.instance.send_sync(EVENT, event)


@PromptServer.instance.routes.get("/sidestep/nodes/{node_id}/history")
async def get_history(request: web.Request) -> web.Response:
    """The latest state of a node and its points, for a page that was opened or reloaded during a run.

    If the node has done nothing in the workflow `workflow` since ComfyUI started: that of its newest run on the disk.
    With `after`, only points after this step.
    """
    node_id, workflow = request.match_info["node_id"], request.query.get("workflow", "")
    after = json_api.number(request, "after", -1)
    with _lock:
        history = _histories.get(node_id)
        answer = history and history.answer(after)
    if workflow not in ("", UNSAVED) and (history is None or history.workflow not in (None, workflow)):
        earlier = await run_files.asked(lambda: run_files.history_of(node_id, workflow))
        answer = earlier.answer(after) if earlier else answer
    # Not a 404: a node that has never run is normal, and browsers log every 404 as an error.
    return json_api.answer(readable_json(answer)) if answer else web.Response(status=204)


@PromptServer.instance.routes.get(r"/sidestep/nodes/{node_id}/runs/{run}/previews/{step:\d{1,9}}")
async def get_preview(request: web.Request) -> web.StreamResponse:
    """The audio of a preview, whole or in the ranges that players ask for.

    Only what a run has recorded is served: the request names no file.
    """
    run, step = request.match_info["run"], int(request.match_info["step"])
    with _lock:
        history = _histories.get(request.match_info["node_id"])
        file = history.preview_file(step) if history is not None and history.run == run else None
    try:
        file = file or await run_files.asked(lambda: run_files.preview(run, step))
    except files.NoRun as error:
        raise web.HTTPNotFound(text=sentence(error)) from error
    if not file.is_file():
        raise web.HTTPNotFound(text="This preview is gone.")
    # A run that is continued may generate it again.
    return web.FileResponse(file, headers={"Content-Type": "audio/flac", "Cache-Control": "no-cache"})
