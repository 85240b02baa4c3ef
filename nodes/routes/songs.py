"""HTTP routes of the song table: GET rows, audio and waveforms; POST edits.

Running a workflow writes nothing: only a POST, which a click sends, writes a sidecar.  The host refuses requests from
other sites.  The browser side is web/songs/.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web
from server import PromptServer

from ...sidestep_core.errors import DatasetError, SideStepError
from ...sidestep_core.io.record import Record, parse
from ...sidestep_core.songs import bulk
from ..host.wording import sentence
from . import song_audio, song_edits, song_previews
from .json_api import answer, body, number

Result = TypeVar("Result")

ROWS = 20
"""Default number of rows."""
SONG = r"/sidestep/songs/{key}/{index:\d{1,9}}"



@dataclass(frozen=True, kw_only=True)
class BulkWish(Record):
    """Request for a change of many songs."""

    action: bulk.Action
    text: str
    find: str = ""
    only: song_previews.Only = "all"
    filter: str = ""
    preview: bool = True


_threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="side-step-songs")
"""Few, so that a page full of waveforms leaves the processor to the training."""


@PromptServer.instance.routes.get("/sidestep/songs/{key}")
async def get_rows(request: web.Request) -> web.Response:
    """Answer with `count` rows of the table from `first` on, of the songs that `only` and `text` leave."""
    key, first, count = request.match_info["key"], number(request, "first", 0), number(request, "count", ROWS)
    if not song_previews.is_known(key):
        # Not a 404: a workflow that was saved before ComfyUI was restarted is normal, and browsers log every 404.
        return web.Response(status=204)
    only, text = request.query.get("only", "all"), request.query.get("text", "")
    return answer(await work(lambda: song_previews.rows(key, first, count, parse(only, song_previews.Only, "only"),
                                                        text)))


@PromptServer.instance.routes.get(SONG + "/audio")
async def get_audio(request: web.Request) -> web.StreamResponse:
    """Answer with the song's file, whole or in ranges; as FLAC for `as=flac` or formats that browsers cannot play."""
    song = await work(lambda: _song(request))
    headers = {"Cache-Control": "no-cache"}
    if request.query.get("as") != "flac" and song_audio.browsers_play(song.path):
        await work(lambda: song_audio.require_audio(song.path))
        return web.FileResponse(song.path, headers=headers | {"Content-Type": song_audio.media_type(song.path)})
    return web.FileResponse(await work(lambda: song_audio.as_flac(song)),
                            headers=headers | {"Content-Type": "audio/flac"})


@PromptServer.instance.routes.get(SONG + "/peaks")
async def get_peaks(request: web.Request) -> web.Response:
    """Answer with the peaks of the waveform; none if the song cannot be decoded, which its row reports."""
    return answer({"peaks": await work(lambda: _peaks(_song(request)))})


@PromptServer.instance.routes.post(SONG + "/metadata")
async def post_metadata(request: web.Request) -> web.Response:
    """Write the edited text fields of a song to its sidecars; answer with its new row."""
    fields = await body(request)
    key, index = request.match_info["key"], int(request.match_info["index"])
    return answer(await work(lambda: song_edits.save(key, index, fields)))


@PromptServer.instance.routes.post("/sidestep/songs/{key}/metadata")
async def post_all_metadata(request: web.Request) -> web.Response:
    """Write the new text fields of every song to its sidecars."""
    await body(request)
    written = await work(lambda: song_edits.save_all(request.match_info["key"]))
    return answer({"songs": written.songs, "problems": list(written.problems[:song_previews.MAX_PROBLEMS])})


@PromptServer.instance.routes.post("/sidestep/songs/{key}/bulk")
async def post_bulk(request: web.Request) -> web.Response:
    """Make one change of the songs that a filter leaves; with `preview`, only answer with what it would change."""
    wish = await body(request)
    return answer(await work(lambda: _bulk(request.match_info["key"], BulkWish.from_json(wish))))


def _bulk(key: str, wish: BulkWish) -> dict[str, object]:
    edit = bulk.BulkEdit(action=wish.action, text=wish.text, find=wish.find)
    only = frozenset(song_previews.matching(song_previews.folder_of(key), wish.only, wish.filter))
    if wish.preview:
        return song_edits.preview_bulk(key, edit, only)
    written = song_edits.save_bulk(key, edit, only)
    return {"songs": written.songs, "problems": list(written.problems[:song_previews.MAX_PROBLEMS])}


def _peaks(song: song_previews.Song) -> list[int]:
    try:
        return song_audio.peaks(song)
    except DatasetError:
        return []  # not an error status: browsers log each


def _song(request: web.Request) -> song_previews.Song:
    return song_previews.song_at(request.match_info["key"], int(request.match_info["index"]))


async def work(call: Callable[[], Result]) -> Result:
    """Run a slow call in a thread; an error about a song or a text becomes the answer."""
    try:
        return await asyncio.get_running_loop().run_in_executor(_threads, call)
    except song_previews.Gone as error:
        raise web.HTTPNotFound(text=sentence(error)) from error
    except (SideStepError, OSError) as error:
        raise web.HTTPUnprocessableEntity(text=sentence(error)) from error
