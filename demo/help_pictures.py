"""Pictures of all nodes for their help pages, taken in the real page.

Run `python -m demo.help_pictures` with COMFYUI_PATH and CHROMIUM set after the widgets of a node changed.
"""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page

from .browser import chromium, configure, open_page
from .server import ComfyUI
from .setup import PACK, set_up

FOLDER = PACK / "web" / "docs" / "images"
DRAWN = 1000
"""Milliseconds until the page has drawn a node."""
VIEW = {"width": 1000, "height": 1600}
QUALITY = 82
WIDTHS = {"SideStepTrainAdapter": 420, "SideStepCompareAdapters": 420}
"""Width of nodes with a panel; others are as wide as the page makes them."""


def main() -> None:
    """Write a picture of each node."""
    setup = set_up()
    with ComfyUI(setup.host, setup.base, pack=PACK, extra_args=setup.extra_args) as server, chromium() as browser:
        nodes = sorted(name for name in server.get_json("/object_info") if name.startswith("SideStep"))
        configure(server, nodes_2=True, **{"Comfy.Minimap.Visible": False})
        with open_page(browser, server, **VIEW) as page:
            page.evaluate("() => window.app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
            for name in nodes:
                write(FOLDER / f"{name}.jpg", picture(page, name))


def picture(page: Page, name: str) -> bytes:
    """Take a PNG of a new node alone on the canvas."""
    page.evaluate("""([name, width]) => {
        const { graph, canvas } = window.app;
        // One by one: after clear() the page would show panels of the node before, which had the same id.
        for (const shown of [...graph.nodes]) graph.remove(shown);
        const node = window.LiteGraph.createNode(name);
        graph.add(node);
        node.pos = [40, 80];
        if (width) node.setSize([width, node.computeSize()[1]]);
        [canvas.ds.scale, canvas.ds.offset] = [1, [0, 0]];
        canvas.setDirty(true, true);
    }""", [name, WIDTHS.get(name)])
    page.wait_for_timeout(DRAWN)
    return page.locator("[data-node-id]").first.screenshot(animations="disabled")


def write(path: Path, png: bytes) -> None:
    """Write a picture as JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(png)).convert("RGB").save(path, quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main()
