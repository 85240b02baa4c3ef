"""Two copies of the pack in custom_nodes of a real ComfyUI: the first works, the second logs that it stays out."""

from __future__ import annotations

from pathlib import Path

from demo.server import PACK_NAME, link
from demo.setup import PACK
from tests.running import demo_comfyui

OTHER = "Side-Step-main"


def test_second_copy_stays_out(tmp_path: Path) -> None:
    link(PACK, tmp_path / "custom_nodes" / OTHER)
    with demo_comfyui(tmp_path) as server:
        info = server.get_json("/object_info/SideStepTrainAdapter")
        scripts = server.get_json("/extensions")
        log = server.log.read_text(encoding="utf-8", errors="replace")
    loaded = info["SideStepTrainAdapter"]["python_module"].removeprefix("custom_nodes.")
    [left_out] = {PACK_NAME, OTHER} - {loaded}
    assert f"Side-Step is in custom_nodes twice: {loaded} is loaded, {left_out} stays out." in log
    assert {path.split("/")[2] for path in scripts if path.endswith("/sidestep.js")} == {loaded}
