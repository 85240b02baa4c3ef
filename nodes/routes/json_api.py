"""JSON in requests and answers of every route."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial

from aiohttp import web

from ...sidestep_core.io import strict_json
from ..host.wording import sentence

MAX_BYTES = 10_000_000
"""Bytes of a request; more than all editable texts in any encoding."""

dumps = partial(json.dumps, allow_nan=False)
"""Serializer that refuses NaN and infinity, which pages cannot read."""


async def body(request: web.Request) -> Mapping[str, object]:
    """Read the JSON object of a request; other content types, which other sites can send, are refused."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Send JSON.")
    if (request.content_length or 0) > MAX_BYTES:
        raise web.HTTPRequestEntityTooLarge(MAX_BYTES, request.content_length or 0)
    try:
        # Half a character is refused with the field that it is in.
        return strict_json.as_object(strict_json.loads(await request.read(), "The request", unicode=False),
                                     "The request")
    except strict_json.BadJson as error:
        raise web.HTTPBadRequest(text=sentence(error)) from error


def answer(content: object) -> web.Response:
    """Answer with `content` as JSON."""
    return web.json_response(content, dumps=dumps)


def number(request: web.Request, name: str, usual: int) -> int:
    """Read a whole number of the query, in 0..10^15; `usual` where it is missing or malformed."""
    text = request.query.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else usual
