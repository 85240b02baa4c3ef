"""Every node has a help page where ComfyUI looks for it, and the page explains exactly the inputs that the node has."""

from __future__ import annotations

import re
import urllib.request

import pytest

from demo.server import PACK_NAME, ComfyUI
from demo.setup import PACK

MAX_BYTES = 1_500_000
"""Size of all pictures."""
PAGES = sorted((PACK / "web" / "docs").glob("*.md"))


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
