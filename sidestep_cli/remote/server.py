"""Requests to a ComfyUI, and the words for what goes wrong with them.

Python's own urllib: nothing more is needed, and nothing has to be installed.  Certificates are verified; no redirect is
followed, which could carry a key elsewhere.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from functools import cached_property
from typing import IO, Any
from urllib.parse import quote, urlsplit

from sidestep_core.errors import SideStepError
from sidestep_core.io import strict_json

from .credentials import Credentials, is_loopback

REPLY_SECONDS = 60.0
HASH_SECONDS = 600.0
"""Time for an answer that reads many songs first."""
MAX_REPLY = 64_000_000
SHOWN = 300
"""Characters of an answer in a message."""
AGENT = "side-step"
"""Some hosts refuse the usual name of Python's requests."""
_NOT_FINITE = re.compile(rb"((?<=[:,] )|(?<=\[))(-?Infinity|NaN)(?=[,\]}])")
"""Numbers that are no JSON, in ComfyUI's descriptions of nodes."""
TRANSIENT = (502, 503, 504)
"""Answers of a host whose ComfyUI is down or starting."""


class RemoteError(SideStepError):
    """The server cannot do what was asked, and asking again does not help."""


class Unreachable(RemoteError):
    """The server does not answer now; it may later."""


class Refused(RemoteError):
    """Answer with an error status."""

    def __init__(self, code: int, body: bytes, message: str) -> None:
        super().__init__(message)
        self.code, self.body = code, body


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Treats a redirect as the error that it is for an API."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
                         headers: Message, newurl: str) -> None:
        return None


@dataclass(frozen=True)
class Server:
    """A ComfyUI by its address."""

    url: str
    credentials: Credentials = field(default_factory=Credentials, repr=False)

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        # A proxy that the environment names has no way to this computer.
        proxies = urllib.request.ProxyHandler({}) if is_loopback(self.url) else urllib.request.ProxyHandler()
        https = urllib.request.HTTPSHandler(context=ssl.create_default_context())
        return urllib.request.build_opener(proxies, https, _NoRedirect())

    @contextmanager
    def opened(self, path: str, data: bytes | Iterable[bytes] | None = None, headers: Mapping[str, str] | None = None,
               *, seconds: float = REPLY_SECONDS) -> Iterator[http.client.HTTPResponse]:
        """Send a request, POST if there is data, and yield the answer.  Unreachable, Refused or RemoteError."""
        request = urllib.request.Request(f"{self.url}{path}", data, {
            "User-Agent": AGENT, **(headers or {}), **dict(self.credentials.headers)})
        try:
            with self._opener.open(request, timeout=seconds) as reply:
                yield reply
        except urllib.error.HTTPError as error:
            raise self._refused(path, error) from None
        except urllib.error.URLError as error:
            raise self._failed(error.reason) from None
        except (http.client.HTTPException, OSError) as error:
            raise self._failed(error) from None

    def get(self, path: str, *, seconds: float = REPLY_SECONDS) -> Any:
        """Read the JSON answer to GET; None if it is empty."""
        with self.opened(path, seconds=seconds) as reply:
            return self._json(path, reply)

    def post(self, path: str, body: object, *, seconds: float = REPLY_SECONDS) -> Any:
        """Read the JSON answer to POST; None if it is empty."""
        data = json.dumps(body, allow_nan=False).encode()
        with self.opened(path, data, {"Content-Type": "application/json"}, seconds=seconds) as reply:
            return self._json(path, reply)

    def _json(self, path: str, reply: http.client.HTTPResponse) -> Any:
        content = reply.read(MAX_REPLY + 1)
        if len(content) > MAX_REPLY:
            raise RemoteError(f"{self.url}{path} answers with more than {MAX_REPLY} bytes. Is this ComfyUI?")
        length = reply.headers.get("Content-Length", "")
        chunked = "chunked" in reply.headers.get("Transfer-Encoding", "").lower()
        # Python takes a connection that ends early for the end of the answer.
        if (int(length) > len(content)) if length.isdecimal() else not (chunked or reply.status == 204):
            raise Unreachable(f"{self.url} ended the connection within an answer.")
        if not content:
            return None
        try:
            return parsed(content)
        except strict_json.BadJson:
            raise RemoteError(f"{self.url}{path} answers, but not as ComfyUI does: {self._shown(content)!r}. Check "
                              "--host: the address and port of ComfyUI itself.") from None

    def _refused(self, path: str, error: urllib.error.HTTPError) -> RemoteError:
        try:
            body = error.read(MAX_REPLY)
        except (OSError, http.client.HTTPException):
            body = b""
        code, text = error.code, self._shown(body)
        if code in TRANSIENT:
            return Unreachable(f"{self.url} answers {code}: its ComfyUI is not running, or still starting. {text}")
        if 300 <= code < 400:
            target = urlsplit(error.headers.get("Location", ""))
            return RemoteError(f"{self.url} sends requests on to {target.scheme}://{target.netloc}. If that is your "
                               "ComfyUI, give it as --host; if it is a login, see --auth.")
        if code in (401, 403):
            problem = "does not accept the key" if self.credentials.headers else "asks for a key"
            return Refused(code, body, f"{self.url} {problem} ({code}). See --auth: bearer, basic, or the header's "
                                       "name that this host wants.")
        return Refused(code, body, f"{self.url}{path} answers {code}: {text}")

    def _failed(self, reason: object) -> RemoteError:
        """Words for a connection that failed."""
        if isinstance(reason, ssl.SSLCertVerificationError):
            return RemoteError(f"{self.url} does not prove that it is this host ({reason.verify_message}), so nothing "
                               "was sent. Check the address; for a certificate of your own, set SSL_CERT_FILE.")
        if isinstance(reason, ssl.SSLError):
            return RemoteError(f"{self.url} does not speak TLS ({reason.reason}). Check the port, or whether it is "
                               "http://.")
        if isinstance(reason, http.client.HTTPException):
            return Unreachable(f"{self.url} ended the connection within an answer, or does not speak HTTP. Check the "
                               "address, port or tunnel.")
        text = self.credentials.hide(str(reason)) or type(reason).__name__
        return Unreachable(f"{self.url} cannot be reached ({text}). Check that ComfyUI runs there, and the address, "
                           "port or tunnel.")

    def _shown(self, body: bytes) -> str:
        """Text of an answer for a message: without markup and keys, shortened."""
        text = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", body.decode(errors="replace"), flags=re.DOTALL)
        return self.credentials.hide(" ".join(text.split()))[:SHOWN]


def require_comfyui(server: Server) -> str:
    """Version of the ComfyUI at the address.  RemoteError if something else answers."""
    facts = server.get("/system_stats")
    system = facts.get("system") if isinstance(facts, dict) else None
    if not isinstance(system, dict) or "comfyui_version" not in system:
        raise RemoteError(f"{server.url} answers, but is no ComfyUI. Check --host: the address and port of ComfyUI.")
    return str(system["comfyui_version"])


def parsed(content: bytes) -> Any:
    """Parse an answer of ComfyUI, in which some numbers may be no JSON.  BadJson for anything else."""
    return strict_json.loads(_NOT_FINITE.sub(b"null", content), "The answer", unicode=False)


def part(name: str) -> str:
    """Quote a name as one part of a path."""
    return quote(name, safe="")
