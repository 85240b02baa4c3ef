"""Messages quoted in docs/troubleshooting.md, found in the code that shows them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "troubleshooting.md"
HOST = {"Value not in list"}
"""Messages of ComfyUI itself."""
VALUE = "..."


def quotes(page: str) -> list[str]:
    """Messages in the first column of the page's tables."""
    cells = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| ")]
    return [quote for cell in cells for quote in re.findall(r"`([^`]+)`", cell)]


def python_texts(source: str) -> Iterator[str]:
    """Texts of the code, with `...` for values."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@lru_cache
def texts() -> tuple[str, ...]:
    """Texts of the core, the nodes, the page, and the set-up."""
    python = [file for folder in ("sidestep_core", "nodes") for file in (ROOT / folder).rglob("*.py")]
    python += [ROOT / name for name in ("__init__.py", "first_copy.py", "run.py", "bootstrap.py")]
    found = [text for file in python for text in python_texts(file.read_text(encoding="utf-8"))]
    for file in (ROOT / "web").rglob("*.js"):
        joined = re.sub(r"""["'`]\s*\+\s*["'`]""", "", file.read_text(encoding="utf-8"))
        found.append(re.sub(r"\$\{[^}]*\}", VALUE, joined))
    return tuple(found)


def shown(quote: str) -> bool:
    """Whether a text of the code has the words of the quote, in their order."""
    pattern = re.compile(".*".join(re.escape(words.strip()) for words in quote.split(VALUE)))
    return any(pattern.search(text) for text in texts())


@pytest.mark.parametrize("quote", sorted(set(quotes(PAGE.read_text(encoding="utf-8"))) - HOST))
def test_quoted_message_exists(quote: str) -> None:
    assert shown(quote)


@pytest.mark.parametrize("quote", ["No song in ... may be used.", "... was written, but nobody came"])
def test_unknown_message_is_found(quote: str) -> None:
    assert not shown(quote)


def test_every_section_quotes_messages() -> None:
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        assert len(quotes(section)) > 1, section.splitlines()[0]
