"""Answers the table of songs in the page: rows, sound and waveforms to GET, notes to write to POST.

Nothing is written by running a workflow: only a POST writes beside a song, which a person's click sends.  The host
turns away requests from other sites.  The browser side is `web/songs.js`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from aiohttp import web
from server import PromptServer

from ...sidestep_core.errors import DatasetError, SideStepError
from ...sidestep_core.io import strict_json
from ..host.wording import sentence
from . import song_audio, song_previews
from .events import dumps

Result = TypeVar("Result")

ROWS = 20
"""Where the page does not say how many."""
MOST_BYTES = 10_000_000
"""In a request; more than all texts that can be written, however they are encoded."""
SONG = r"/sidestep/songs/{key}/{index:\d{1,9}}"

_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="side-step-songs")
"""Few, so that a page that asks for many waveforms leaves the processor to the work."""


@PromptServer.instance.routes.get("/sidestep/songs/{key}")
async def get_rows(request: web.Request) -> web.Response:
    """Rows of the table from `first` on, `count` of them."""
    key, first, count = request.match_info["key"], _number(request, "first", 0), _number(request, "count", ROWS)
    if not song_previews.is_known(key):
        # Not a 404: a workflow that was saved before ComfyUI was restarted is normal, and browsers log every 404.
        return web.Response(status=204)
    return answer(await work(lambda: song_previews.rows(key, first, count)))


@PromptServer.instance.routes.get(SONG + "/audio")
async def get_audio(request: web.Request) -> web.StreamResponse:
    """The song's file, whole or in the ranges that players ask for; as FLAC where `as=flac` or browsers cannot."""
    song = await work(lambda: _song(request))
    headers = {"Cache-Control": "no-cache"}
    if request.query.get("as") != "flac" and song_audio.browsers_play(song.path):
        await work(lambda: song_audio.require_audio(song.path))
        return web.FileResponse(song.path, headers=headers | {"Content-Type": song_audio.media_type(song.path)})
    return web.FileResponse(await work(lambda: song_audio.as_flac(song)),
                            headers=headers | {"Content-Type": "audio/flac"})


@PromptServer.instance.routes.get(SONG + "/peaks")
async def get_peaks(request: web.Request) -> web.Response:
    """The shape of the waveform; none of a song that cannot be decoded, which its row says."""
    return answer({"peaks": await work(lambda: _peaks(_song(request)))})


@PromptServer.instance.routes.post(SONG + "/notes")
async def post_notes(request: web.Request) -> web.Response:
    """Writes what a person changed of a song's notes beside it; its new row."""
    words = await body(request)
    key, index = request.match_info["key"], int(request.match_info["index"])
    return answer(await work(lambda: song_previews.save(key, index, words)))


@PromptServer.instance.routes.post("/sidestep/songs/{key}/notes")
async def post_all_notes(request: web.Request) -> web.Response:
    """Writes beside every song what is known of it here and not there."""
    await body(request)
    written = await work(lambda: song_previews.save_all(request.match_info["key"]))
    return answer({"songs": written.songs, "problems": list(written.problems[:song_previews.MOST_PROBLEMS])})


def _peaks(song: song_previews.Song) -> list[int]:
    try:
        return song_audio.peaks(song)
    except DatasetError:
        return []  # not an error status: browsers log each


def _song(request: web.Request) -> song_previews.Song:
    return song_previews.song_at(request.match_info["key"], int(request.match_info["index"]))


async def work(call: Callable[[], Result]) -> Result:
    """The result of work that may take a while; what is wrong with a song, or with a text, becomes the answer."""
    try:
        return await asyncio.get_running_loop().run_in_executor(_threads, call)
    except song_previews.Gone as error:
        raise web.HTTPNotFound(text=sentence(error)) from error
    except (SideStepError, OSError) as error:
        raise web.HTTPUnprocessableEntity(text=sentence(error)) from error


async def body(request: web.Request) -> Mapping[str, object]:
    """The JSON object of a request.  Other kinds are refused, as pages of other sites can send those unasked."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Send JSON.")
    if (request.content_length or 0) > MOST_BYTES:
        raise web.HTTPRequestEntityTooLarge(MOST_BYTES, request.content_length or 0)
    try:
        # Half a character is refused with the field that it is in.
        return strict_json.as_object(strict_json.loads(await request.read(), "The request", unicode=False),
                                     "The request")
    except strict_json.BadJson as error:
        raise web.HTTPBadRequest(text=sentence(error)) from error


def _number(request: web.Request, name: str, usual: int) -> int:
    text = request.query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else usual


def answer(content: object) -> web.Response:
    return web.json_response(content, dumps=dumps)
