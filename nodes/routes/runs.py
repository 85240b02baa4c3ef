"""HTTP routes of the runs: GET lists, curves, previews and workflows; POST notes and deletion.

Everything is read from the runs' folders, so that it survives restarts; only the state of a run that is under way comes
from `host/live.py`.  The browser side is web/runs/server.js.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import quote

from aiohttp import web
from server import PromptServer

from ...sidestep_core.errors import InUse, SideStepError
from ...sidestep_core.io.record import parse
from ...sidestep_core.runs import files
from ...sidestep_core.runs.report import POLICY
from ..host.wording import sentence
from . import run_files, run_report
from .json_api import answer, body, dumps, number

Result = TypeVar("Result")

RUN = "/sidestep/runs/{run}"
MAX_POINTS = 20_000
LAST = 10**15
"""Step that no run has."""


@PromptServer.instance.routes.get("/sidestep/runs")
async def get_runs(request: web.Request) -> web.Response:
    """Answer with every run, newest first."""
    return await _fresh(request, lambda: {"runs": run_files.answers()})


@PromptServer.instance.routes.get(RUN)
async def get_run(request: web.Request) -> web.Response:
    """Answer with one run."""
    run = request.match_info["run"]
    return await _fresh(request, lambda: run_files.answer(run))


@PromptServer.instance.routes.get(RUN + "/metrics")
async def get_metrics(request: web.Request) -> web.Response:
    """Answer with the curve after the step `after`, to the step `until` if there is one, thinned to about `points`."""
    run, after, until = request.match_info["run"], number(request, "after", -1), number(request, "until", LAST)
    points = max(2, min(number(request, "points", run_files.POINTS), MAX_POINTS))
    return await _fresh(request, lambda: run_files.metrics(run, after, until, points))


@PromptServer.instance.routes.get(RUN + r"/previews/{step:\d{1,9}}")
async def get_preview(request: web.Request) -> web.StreamResponse:
    """Answer with the audio of a preview, whole or in the ranges that players ask for."""
    run, step = request.match_info["run"], int(request.match_info["step"])
    file = await _work(lambda: run_files.preview(run, step))
    return web.FileResponse(file, headers={"Content-Type": "audio/flac", "Cache-Control": "no-cache"})


@PromptServer.instance.routes.get(RUN + "/workflow")
async def get_workflow(request: web.Request) -> web.Response:
    """Answer with the workflow that started the run, exactly as its page sent it."""
    run = request.match_info["run"]
    return web.json_response(body=await _work(lambda: run_files.workflow(run)))


@PromptServer.instance.routes.get(RUN + "/report")
async def get_report(request: web.Request) -> web.Response:
    """Answer with a report to share: one HTML file, as a download for `download=1`."""
    run = request.match_info["run"]
    name, html = await _work(lambda: run_report.report_of(run))
    headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    if request.query.get("download") == "1":
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(f'{name} report.html', safe='')}"
    return web.Response(text=html, content_type="text/html", headers=headers)


@PromptServer.instance.routes.get(RUN + "/adapters")
async def get_adapters(request: web.Request) -> web.Response:
    """Answer with the published adapters of a run, oldest first: name, size and SHA-256."""
    run = request.match_info["run"]
    return answer({"adapters": await _work(lambda: run_files.adapters(run))})


@PromptServer.instance.routes.get(RUN + "/adapters/{name}")
async def get_adapter(request: web.Request) -> web.StreamResponse:
    """Answer with the file of a published adapter, whole or in ranges."""
    run, name = request.match_info["run"], request.match_info["name"]
    file = await _work(lambda: run_files.adapter(run, name))
    return web.FileResponse(file, headers={"Content-Type": "application/octet-stream", "Cache-Control": "no-cache"})


@PromptServer.instance.routes.post(RUN + "/note")
async def post_note(request: web.Request) -> web.Response:
    """Keep a person's note about a run; an empty one removes it."""
    run, content = request.match_info["run"], await body(request)
    await _work(lambda: run_files.write_note(run, parse(content.get("note", ""), str, "note")))
    return answer({})


@PromptServer.instance.routes.post(RUN + "/delete")
async def post_delete(request: web.Request) -> web.Response:
    """Delete a run's folder, unless it is being trained.  Published adapters stay."""
    await body(request)
    run = request.match_info["run"]
    await _work(lambda: run_files.delete(run))
    return answer({})


async def _work(call: Callable[[], Result]) -> Result:
    """Run a call in the thread; an error becomes the answer: {"error": sentence}."""
    try:
        return await run_files.asked(call)
    except files.NoRun as error:
        raise web.HTTPNotFound(text=_error(error), content_type="application/json") from error
    except InUse as error:
        raise web.HTTPConflict(text=_error(error), content_type="application/json") from error
    except (SideStepError, OSError) as error:
        raise web.HTTPUnprocessableEntity(text=_error(error), content_type="application/json") from error


def _error(error: Exception) -> str:
    return dumps({"error": sentence(error)})


async def _fresh(request: web.Request, call: Callable[[], Mapping[str, object]]) -> web.Response:
    """Answer with the result, or with 304 if the page has it already."""
    content = await _work(lambda: dumps(call()).encode())
    digest = hashlib.sha256(content).hexdigest()[:32]
    headers = {"ETag": f'"{digest}"', "Cache-Control": "no-cache"}
    if any(known.value == digest for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return web.Response(body=content, content_type="application/json", headers=headers)
