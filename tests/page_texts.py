"""Texts in the scripts of the page: those that t() and plural() translate, and all other literals."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WEB = Path(__file__).parent.parent / "web"
TRANSLATE = ("t", "plural")

_TOKEN = re.compile(r"""
    (?P<comment> //[^\n]* | /\*.*?\*/ )
  | (?P<string> "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' )
  | (?P<regex> (?<=[(,=:?!&|;{}\[]) \s* /(?![/*])(?:[^/\\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+/ )
  | (?P<call> [\w.$]+\( )
  | (?P<open> [(\[{] | `  )
  | (?P<close> [)\]}] )
  | (?P<comma> , )
  | (?P<other> [\w.$]+ | . | \n )""", re.VERBOSE | re.DOTALL)
_CHUNK = re.compile(r"(?P<text>(?:[^`\\$]|\\.|\$(?!\{))*)(?P<end>`|\$\{)", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-f]{4}|.)", re.DOTALL)


@dataclass(frozen=True)
class Literal:
    """Literal text of a script; strings that are added up are one."""

    text: str
    call: str
    """Name of the function whose argument it is; empty for none."""
    argument: int
    place: str
    """File and line."""


@dataclass
class _Frame:
    """Open bracket."""

    kind: str
    call: str = ""
    argument: int = 0
    text: str | None = None
    line: int = 0

    def end(self, name: str) -> Iterator[Literal]:
        """Yield the text that was added up."""
        if self.text is not None:
            yield Literal(self.text, self.call, self.argument, f"{name}:{self.line}")
        self.text = None


def scripts() -> Iterator[Path]:
    """Yield the scripts of the page."""
    yield from sorted(WEB.rglob("*.js"))


def literals(source: str, name: str = "") -> Iterator[Literal]:
    """Yield the literals of a script."""
    frames = [_Frame("{")]
    at, line = 0, 1
    while at < len(source):
        found = _TOKEN.match(source, at)
        assert found is not None
        kind, text, at = str(found.lastgroup), found[0], found.end()
        frame = frames[-1]
        if kind == "string":
            frame.line = line if frame.text is None else frame.line
            frame.text = (frame.text or "") + _value(text[1:-1])
        elif kind != "comment" and text.strip() not in ("", "+"):
            yield from frame.end(name)
        if kind == "comma":
            frame.argument += 1
        elif kind == "call" or (kind == "open" and text != "`"):
            frames.append(_Frame(text[-1], text[:-1]))
        elif kind == "close":
            frames.pop()
        if text == "`" or (kind == "close" and frames[-1].kind == "`"):
            if text == "`":
                frames.append(_Frame("`"))
            chunk = _CHUNK.match(source, at)
            assert chunk is not None
            yield Literal(_value(chunk["text"]), "", 0, f"{name}:{line}")
            at = chunk.end()
            line += chunk[0].count("\n")
            frames.pop() if chunk["end"] == "`" else frames.append(_Frame("{"))
        line += text.count("\n")
    yield from frames[0].end(name)


def _value(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1][1:], 16)) if len(found[1]) > 1 else
                       {"n": "\n", "r": "\r", "t": "\t"}.get(found[1], found[1]), text)
