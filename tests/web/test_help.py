"""Every node has a help page where ComfyUI looks for it, and the page explains exactly the inputs that the node has."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

import pytest

from demo.server import PACK_NAME, ComfyUI
from demo.setup import PACK

MAX_BYTES = 1_500_000
"""Size of all pictures."""
PAGES = sorted((PACK / "web" / "docs").glob("*.md"))
TRANSLATED = sorted((PACK / "web" / "docs").glob("*/*.md"))
LINE = re.compile(r"#+ |\| \*\*.*?\*\* \||\| |- |!\[|$|")
"""Begin of a line by its kind: a heading, an input, another row, an item, a picture, nothing, a text."""


def test_every_node_has_help(server: ComfyUI) -> None:
    nodes = {name for name in server.get_json("/object_info") if name.startswith("SideStep")}
    assert {path.stem for path in PAGES} == nodes


@pytest.mark.parametrize("name", [path.stem for path in PAGES])
def test_help_explains_every_input(server: ComfyUI, name: str) -> None:
    with urllib.request.urlopen(f"{server.address}/extensions/{PACK_NAME}/docs/{name}.md", timeout=30) as reply:
        page = reply.read().decode()
    info = server.get_json(f"/object_info/{name}")[name]
    inputs = {*info["input"].get("required", {}), *info["input"].get("optional", {})}
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| **")]
    assert set(re.findall(r"\*\*(\w+)\*\*", " ".join(rows))) == inputs
    assert page.splitlines()[0] == f"# {info['display_name']}"
    for output in info["output_name"]:
        assert f"**{output}**" in page


def test_pages_show_their_node() -> None:
    pictures = {path.stem: path.stat().st_size for path in (PACK / "web" / "docs" / "images").glob("*.jpg")}
    assert set(pictures) == {path.stem for path in PAGES}
    assert sum(pictures.values()) < MAX_BYTES
    for path in PAGES:
        assert f"](images/{path.stem}.jpg)" in path.read_text(encoding="utf-8")


def shape(page: str) -> list[str]:
    """Kind of each line of a page, with the inputs that it explains."""
    return [re.sub(r"(?<=\| )[^*]*$", "", found[0]) for line in page.splitlines() if (found := LINE.match(line))]


@pytest.mark.parametrize("path", TRANSLATED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_translated_help_is_as_english(path: Path) -> None:
    node, page = path.parent.name, path.read_text(encoding="utf-8")
    english = path.parent.with_suffix(".md").read_text(encoding="utf-8")
    assert shape(page) == shape(english)
    for kind in (r"`[^`]+`", r"\]\([^)]+\)", r"\*\*[a-z_]+\*\*", r"(?<!\*)\*[a-z_ ]+\*(?!\*)"):
        assert sorted(set(re.findall(kind, page))) == sorted(set(re.findall(kind, english)))
    names = json.loads((PACK / "locales" / path.stem / "nodeDefs.json").read_text(encoding="utf-8"))
    assert page.splitlines()[0] == f"# {names[node]['display_name']}"
