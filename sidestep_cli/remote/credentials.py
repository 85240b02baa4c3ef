"""Keys of a server behind a login: from the environment or a prompt, never from a file or the command line.

A key goes into a header of each request, and nowhere else: it is taken out of every text that a server answers.
"""

from __future__ import annotations

import base64
import getpass
import os
import re
import sys
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sidestep_core.errors import ConfigError

KEY = "SIDE_STEP_KEY"
"""Environment variable of the key."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_VISIBLE = re.compile(r"[\x20-\x7e]+")
HIDDEN = "***"


@dataclass(frozen=True)
class Credentials:
    """Headers that prove who asks."""

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Texts that must not be shown."""

    def hide(self, text: str) -> str:
        """Return the text without the key in it."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text


def address(given: str) -> str:
    """Address of a server, with its scheme and without a slash at the end.  ConfigError if it is none, or holds a key.
    """
    text = given.strip().rstrip("/")
    if re.match(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?(/|$)", text):
        text = f"http://{text}"
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, known = urlsplit(""), False
    if "@" in text or parts.query or parts.fragment:
        # Not shown: it may be a key.
        raise ConfigError(f"--host takes the address alone, without a name, key or ? in it: keys come from --auth and "
                          f"{KEY}.")
    if not known:
        raise ConfigError(f"--host {given!r} is no address. Give one such as https://example.org or "
                          "http://127.0.0.1:8188.")
    return text


def is_loopback(url: str) -> bool:
    """Return True for an address of this computer, such as the end of a tunnel."""
    return (urlsplit(url).hostname or "") in LOOPBACK


def credentials(kind: str | None, url: str) -> Credentials:
    """Read the key for `--auth`: bearer, basic, or the name of a header.  ConfigError where it could be overheard."""
    if kind is None:
        return Credentials()
    if not _HEADER.fullmatch(kind):
        # Not shown: somebody may have given the key itself.
        raise ConfigError(f"--auth takes bearer, basic, or the name of a header. The key itself comes from {KEY}, or "
                          "is asked for.")
    if url.startswith("http:") and not is_loopback(url):
        raise ConfigError("A key is not sent over http://, where others on the way can read it. Use https://, or a "
                          "tunnel to 127.0.0.1.")
    key = _key(kind)
    if kind == "basic":
        if ":" not in key:
            raise ConfigError(f"For --auth basic, {KEY} is name:password.")
        encoded = base64.b64encode(key.encode()).decode()
        return Credentials((("Authorization", f"Basic {encoded}"),), (key, encoded, key.partition(":")[2]))
    if kind == "bearer":
        return Credentials((("Authorization", f"Bearer {key}"),), (key,))
    return Credentials(((kind, key),), (key,))


def _key(kind: str) -> str:
    """Read the key from the environment, or ask for it."""
    key = os.environ.get(KEY, "")
    if not key and sys.stdin.isatty():
        key = getpass.getpass(f"Key for --auth {kind} (name:password): " if kind == "basic" else f"Key ({kind}): ")
    key = key.strip()
    if not key:
        raise ConfigError(f"--auth {kind} needs a key: set the environment variable {KEY}, or run the command in a "
                          "terminal, which asks for it.")
    if not _VISIBLE.fullmatch(key):
        raise ConfigError(f"The key in {KEY} has characters that a header cannot hold, such as a line break. Copy it "
                          "again.")
    return key
