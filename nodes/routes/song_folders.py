"""HTTP routes of the Songs tab and of "Train on my songs": folders, names for an upload, and a first training.

Nothing is written here: files are uploaded through ComfyUI's own route.  Folders have the names that
`library.input_folders` lists; songs keep the ids of `song_previews`.  The browser side is web/songs/.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import folder_paths
from aiohttp import web
from server import PromptServer

from ...sidestep_core.io.record import parse
from ..host.wording import readable_json
from ..library import first_training, input_folders, uploads
from . import song_previews
from .json_api import answer, body
from .songs import work


@PromptServer.instance.routes.get("/sidestep/song_folders")
async def get_folders(_: web.Request) -> web.Response:
    """Answer with the song folders of the input folder, and those that a node has shown."""
    listed = await work(input_folders.listed)
    shown = song_previews.shown_folders(Path(folder_paths.get_input_directory()))
    return answer({"input": [asdict(folder) for folder in listed], "shown": shown,
                   "largest_upload": uploads.largest_upload()})


@PromptServer.instance.routes.post("/sidestep/song_folders/scan")
async def post_scan(request: web.Request) -> web.Response:
    """Read the songs of a folder of the input folder; answer with their id for the other routes."""
    wish = await body(request)
    return answer(await work(lambda: song_previews.show(input_folders.scan(_text(wish, "folder")))))


@PromptServer.instance.routes.post("/sidestep/song_folders/plan")
async def post_plan(request: web.Request) -> web.Response:
    """Answer with a free folder and safe names for files that a person is about to upload; nothing is written."""
    wish = await body(request)
    return answer(readable_json(await work(lambda: asdict(_plan(wish)))))


@PromptServer.instance.routes.post("/sidestep/song_folders/resume")
async def post_resume(request: web.Request) -> web.Response:
    """Answer with safe names for an upload into a folder that may be there, and with the files that it has already."""
    wish = await body(request)
    found = await work(lambda: uploads.resume(_text(wish, "name"), _offered(wish)))
    return answer(readable_json(asdict(found)))


@PromptServer.instance.routes.get("/sidestep/first_training")
async def get_models(_: web.Request) -> web.Response:
    """Answer with the models to train for, best first."""
    return answer({"models": await work(first_training.models)})


@PromptServer.instance.routes.post("/sidestep/first_training")
async def post_first_training(request: web.Request) -> web.Response:
    """Answer with the proposed training of the songs of an input folder; nothing is changed."""
    wish = await body(request)
    return answer(readable_json(await work(lambda: _prepared(wish))))


def _plan(wish: Mapping[str, object]) -> uploads.UploadPlan:
    return uploads.plan(_text(wish, "name"), _offered(wish))


def _offered(wish: Mapping[str, object]) -> list[uploads.Offered]:
    return parse(wish.get("files"), list[uploads.Offered], "files")


def _prepared(wish: Mapping[str, object]) -> dict[str, object]:
    chosen = first_training.Wish.from_json(wish)
    return asdict(first_training.prepare(input_folders.scan(chosen.folder), chosen))


def _text(wish: Mapping[str, object], name: str) -> str:
    text: str = parse(wish.get(name), str, name)
    return text
