"""Settings of a preset, for the widgets of a training that are dimmed while one is connected.

The browser side is `web/preset_values.js`.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web
from server import PromptServer

from ...sidestep_core.io.record import parse
from ..host import preset_files
from ..widgets import training as training_widgets
from .json_api import answer, body
from .songs import work


@PromptServer.instance.routes.post("/sidestep/preset")
async def post_preset(request: web.Request) -> web.Response:
    """Answer the settings that Load Preset gives with these widgets.

    Nothing is changed; it is a POST because the texts may be long.
    """
    widgets = await body(request)
    return answer({"settings": await work(lambda: _settings(widgets))})


def _settings(widgets: Mapping[str, object]) -> Mapping[str, object]:
    texts = parse(widgets, dict[str, str], "The request")
    _, chosen = preset_files.chosen(*(texts.get(name, "") for name in ("preset", "changes", "json")))
    return training_widgets.shown(chosen.train)
