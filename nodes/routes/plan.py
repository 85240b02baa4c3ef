"""HTTP route of the plan of a training: POST /sidestep/plan.

Nothing is run, loaded or written; it is a POST because a workflow is long.  The browser side is web/progress/plan.js.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web
from server import PromptServer

from ...sidestep_core.io.record import parse
from ...sidestep_core.io.strict_json import BadJson, as_object
from ..host.planning import plan
from ..host.wording import readable_json, sentence
from .json_api import answer, body

_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="side-step-plan")
"""One, so that a page that asks often leaves the processor to other work."""


@PromptServer.instance.routes.post("/sidestep/plan")
async def post_plan(request: web.Request) -> web.Response:
    """Answer with the plan of the node `node_id` of a prompt in API format."""
    content = await body(request)
    try:
        prompt = as_object(content.get("prompt"), "prompt")
        node_id = parse(content.get("node_id"), str, "node_id")
    except BadJson as error:
        raise web.HTTPBadRequest(text=sentence(error)) from error
    made = await asyncio.get_running_loop().run_in_executor(_thread, lambda: plan.answer(prompt, node_id))
    return answer(readable_json(made))
