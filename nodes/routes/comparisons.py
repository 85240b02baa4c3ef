"""HTTP routes of the tab Listen: GET comparisons and their audio, POST votes and the take to keep.

A comparison is named by its id, a take by its number.  The browser side is web/listen/.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import web
from server import PromptServer

from ...sidestep_core.adapters.file import content_fingerprint, publish
from ...sidestep_core.compare import comparison
from ...sidestep_core.compare.comparison import Comparison
from ...sidestep_core.errors import AdapterError
from ...sidestep_core.io import strict_json
from ...sidestep_core.io.record import parse
from ...sidestep_core.runs import files, previews
from ..host import choices, folders
from ..host.compare import takes
from ..host.wording import sentence
from .json_api import answer, body
from .songs import work

log = logging.getLogger(__name__)

MAX_LISTED = 200
ONE = "/sidestep/comparisons/{id}"
LONGEST_STEM = 60

_lock = threading.Lock()
"""Held while a comparison is read and written back."""


@PromptServer.instance.routes.get("/sidestep/comparisons")
async def get_comparisons(request: web.Request) -> web.Response:
    """Answer with the newest comparisons."""
    return answer({"comparisons": await work(_listed)})


@PromptServer.instance.routes.get(ONE)
async def get_comparison(request: web.Request) -> web.Response:
    """Answer with one comparison; 204 when it is gone, as browsers log every 404 and a saved workflow may name it."""
    found = await work(lambda: comparison.read(folders.comparisons_folder(), request.match_info["id"]))
    return web.Response(status=204) if found is None else answer(_shown(found))


@PromptServer.instance.routes.get(ONE + r"/takes/{take:\d}")
async def get_take(request: web.Request) -> web.StreamResponse:
    """Answer with the audio of a take."""
    file = comparison.take_file(folders.comparisons_folder(), request.match_info["id"],
                                int(request.match_info["take"]))
    if file is None:
        raise web.HTTPNotFound(text="This take is gone.")
    return web.FileResponse(file, headers={"Content-Type": "audio/flac", "Cache-Control": "no-cache"})


@PromptServer.instance.routes.post(ONE + "/vote")
async def post_vote(request: web.Request) -> web.Response:
    """Add a blind vote for a take."""
    take = await _take(request)
    return answer(await work(lambda: _changed(request, lambda found: found.voted(take))))


@PromptServer.instance.routes.post(ONE + "/keep")
async def post_keep(request: web.Request) -> web.Response:
    """Mark the take to keep; the adapter of a run checkpoint is copied into the LoRA folder first."""
    take = await _take(request)
    return answer(await work(lambda: _changed(request, lambda found: _kept(found, take))))


@PromptServer.instance.routes.get("/sidestep/runs/{run}/takes")
async def get_preview_facts(request: web.Request) -> web.Response:
    """Answer with prompt, seed and loudness of a run's previews."""
    return answer(await work(lambda: _preview_facts(request.match_info["run"])))


@PromptServer.instance.routes.post(r"/sidestep/runs/{run}/previews/{step:\d{1,9}}/vote")
async def post_preview_vote(request: web.Request) -> web.Response:
    """Add a blind vote for a preview of a run."""
    await body(request)
    run, step = request.match_info["run"], int(request.match_info["step"])
    return answer(await work(lambda: _preview_facts(run, lambda folder: previews.vote(folder, step))))


def _preview_facts(run: str, change: Callable[[Path], None] = lambda _: None) -> dict[str, Any]:
    try:
        folder = files.run_folder(folders.runs_folder(), run)
        change(folder)
    except files.NoRun as error:
        raise web.HTTPNotFound(text=sentence(error)) from error
    return takes.preview_facts(folder)


def _listed() -> list[dict[str, Any]]:
    root = folders.comparisons_folder()
    found = []
    for name in comparison.names(root)[:MAX_LISTED]:
        try:
            one = comparison.read(root, name)
        except strict_json.BadJson as error:
            log.warning("The comparison %s is not in the list: %s", name, error)
            continue
        found += [_shown(one)] if one else []
    return found


def _shown(found: Comparison) -> dict[str, Any]:
    """Answer for the page: the takes with their numbers of votes."""
    content = asdict(found)
    votes = [vote.take for vote in found.votes]
    content["votes"] = [votes.count(number) for number in range(1, len(found.takes) + 1)]
    return content


async def _take(request: web.Request) -> int:
    fields = await body(request)
    return await work(lambda: parse(fields.get("take"), int, "take"))


def _changed(request: web.Request, change: Callable[[Comparison], Comparison]) -> dict[str, Any]:
    root = folders.comparisons_folder()
    with _lock:
        found = comparison.read(root, request.match_info["id"])
        if found is None:
            raise web.HTTPNotFound(text="This comparison is gone.")
        changed = change(found)
        comparison.update(root, changed)
    return _shown(changed)


def _kept(found: Comparison, number: int) -> Comparison:
    take = found.take(number)
    if not take.checkpoint or take.adapter_file:
        return found.with_kept(number, take.adapter_file)
    path = choices.checkpoint_adapter(take.checkpoint)
    if path is None or not path.is_file() or content_fingerprint(path) != take.content:
        raise AdapterError(f"The checkpoint of {take.name} is gone or was written again since, so it cannot be kept. "
                           "Compare again.")
    target = folders.adapter_file(take.name[:LONGEST_STEM].replace(" ", "-"))
    return found.with_kept(number, folders.adapter_name_of(publish(path, target)))
