"""Example workflows with their thumbnails, and the picture in the README, made from the demo's prompts.

Run `python -m demo.workflow` with COMFYUI_PATH set after a node or a prompt changed; names of templates renew only
those.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from . import blueprint, thumbnails
from .browser import chromium, configure, open_page
from .examples import (
    EXAMPLES,
    GENERATE,
    LANGUAGE_MODEL,
    LOADER,
    MODEL,
    SETTINGS,
    TEXT_ENCODER,
    VAE,
    Example,
)
from .server import ComfyUI, Prompt
from .setup import PACK, set_up

HERE = Path(__file__).parent
PICTURE = PACK / "docs" / "graph.png"
TITLE_BAR = 30
MARGIN = 24
DRAWN = 1500
"""Milliseconds until the page has drawn a change."""
VIEW = {"width": 2400, "height": 1600}
SCALE = 0.8
BARE_PAGE = {"Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasMenu": False, "Comfy.Graph.CanvasInfo": False}

EXTRA_HEIGHTS = {"TextEncodeAceStepAudio1.5": 40, "PreviewImage": 380, "PreviewAny": 380}
"""Pixels added to a node's minimum height, so that its text or picture is legible."""
NOTE_HEIGHT = 300
ENCLOSE = """margin => {
    const { graph } = window.app;
    for (const { pos, size } of graph.groups) {
        const inside = graph.nodes.filter(node => node.pos[0] >= pos[0] && node.pos[0] < pos[0] + size[0]);
        size[1] = Math.max(...inside.map(node => node.pos[1] + node.size[1])) - pos[1] + margin;
    }
}"""
"""Draws the frames of groups around their nodes, whose panels have grown with their results."""
FILES = {
    LOADER: [("diffusion_models", MODEL), ("text_encoders", TEXT_ENCODER), ("vae", VAE)],
    "UNETLoader": [("diffusion_models", MODEL)],
    "DualCLIPLoader": [("text_encoders", TEXT_ENCODER), ("text_encoders", LANGUAGE_MODEL)],
    "VAELoader": [("vae", VAE)],
}
DOWNLOADS = "https://huggingface.co/Comfy-Org/ace_step_1.5_ComfyUI_files/resolve/main/split_files"
"""Address of the files in ComfyUI's own ACE-Step 1.5 templates; ComfyUI offers to fetch missing ones."""

DEMO = HERE / "train_then_generate.json"
"""Workflow with the demo's own values, opened by `run.py comfyui`."""


def main(names: Sequence[str]) -> None:
    """Write the workflow files and the pictures: all, or those of these names."""
    examples = [example for example in EXAMPLES if not names or example.name in names]
    setup = set_up()
    with ComfyUI(setup.host, setup.base, pack=PACK, extra_args=setup.extra_args) as server, chromium() as browser:
        for example in examples:
            prompt = example.demo_prompt()
            # Run first and without a page: nodes then show their history.
            outcome = server.run(prompt)
            if outcome.status != "success":
                raise SystemExit(f"{example.name} ended with {outcome.status}. {outcome.exception_message}")
            configure(server, nodes_2=False)
            with open_page(browser, server, **VIEW) as page:
                write(example.file, draw(page, example, example.prompt_for_people()))
            if example == GENERATE:
                with open_page(browser, server, **VIEW) as page:
                    write(blueprint.FILE, draw_blueprint(page))
                with open_page(browser, server, **VIEW) as page:
                    graph = draw(page, example, prompt)
                write(DEMO, graph)
                configure(server, nodes_2=True, **BARE_PAGE)
                with open_page(browser, server, **VIEW) as page:
                    photograph(page, graph)
    thumbnails.write({example.thumbnail: thumbnails.CARDS[example.name] for example in examples})


def write(path: Path, graph: dict[str, Any]) -> None:
    """Write a workflow file."""
    path.write_text(json.dumps(graph, indent=2) + "\n", encoding="utf-8", newline="\n")


def draw(page: Page, example: Example, prompt: Prompt) -> dict[str, Any]:
    """Lay out the prompt as a workflow file; nodes overlap in neither render mode."""
    page.evaluate("([prompt, name]) => window.app.loadApiJson(prompt, name)", [prompt, example.name])
    layout = (HERE / "layout.js").read_text(encoding="utf-8")
    page.evaluate(layout, {"groups": [asdict(group) for group in example.groups], "heights": heights(page, example),
                           "note": {"title": "How to use this", "height": NOTE_HEIGHT, "text": example.note},
                           "collapsed": [SETTINGS]})
    graph: dict[str, Any] = json.loads(page.evaluate("() => JSON.stringify(window.app.graph.serialize())"))
    # Without an id every copy that a person opens gets its own, and keeps its own training history.
    del graph["id"]
    graph["extra"] = {"ds": {"scale": 0.6, "offset": [60, 60]}}
    name_downloads(graph["nodes"])
    return graph


def name_downloads(nodes: Sequence[dict[str, Any]]) -> None:
    """Name the download of each usual model file that nodes of a graph have chosen."""
    for node in nodes:
        usual = [file for file in FILES.get(node["type"], []) if file[1] in node["widgets_values"]]
        if usual:
            node["properties"]["models"] = [{"name": name, "directory": folder, "url": f"{DOWNLOADS}/{folder}/{name}"}
                                            for folder, name in usual]


def draw_blueprint(page: Page) -> dict[str, Any]:
    """Lay out the graph inside the blueprint, and make one node of it."""
    draw(page, blueprint.EXAMPLE, blueprint.EXAMPLE.prompt_for_people())
    content = blueprint.made(page)
    name_downloads(content["definitions"]["subgraphs"][0]["nodes"])
    return content


def heights(page: Page, example: Example) -> dict[str, float]:
    """Measure the height of every node by id, so that its content fits in either render mode."""
    widths = {name: column.width for group in example.groups for column in group.columns for name in column.types}
    page.evaluate("value => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', value)", True)
    page.wait_for_timeout(DRAWN)
    # The classic canvas computes its need; Nodes 2.0 is measured, title bar included.
    found: dict[str, float] = page.evaluate("""async ([widths, extra, title, wait]) => {
        const { nodes } = window.app.graph;
        for (const node of nodes) node.setSize([widths[node.type], title]);
        await new Promise(resolve => setTimeout(resolve, wait));
        const drawn = ({ id }) => document.querySelector(`[data-node-id="${id}"]`).offsetHeight - title;
        return Object.fromEntries(nodes.map(node => [
            node.id, Math.max(drawn(node), node.computeSize()[1]) + (extra[node.type] ?? 0)]));
    }""", [widths, EXTRA_HEIGHTS, TITLE_BAR, DRAWN])
    page.evaluate("value => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', value)", False)
    page.wait_for_timeout(DRAWN)
    return found


def photograph(page: Page, graph: dict[str, Any]) -> None:
    """Take the picture in the README: the graph as it appears on screen."""
    page.wait_for_timeout(DRAWN)
    page.evaluate("graph => window.app.loadGraphData(graph)", graph)
    page.wait_for_timeout(DRAWN)
    page.evaluate(ENCLOSE, MARGIN)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_bytes(picture_of_graph(page))


def picture_of_graph(page: Page) -> bytes:
    """Take a PNG of the open graph, cropped to its groups and nodes."""
    page.evaluate("() => window.app.extensionManager.command.execute('Workspace.ToggleFocusMode')")
    width, height = page.evaluate("""([scale, margin]) => {
        const { graph, canvas } = window.app;
        const boxes = [...graph.groups, ...graph.nodes].map(item => item.boundingRect);
        const [left, top] = [0, 1].map(axis => Math.min(...boxes.map(box => box[axis])));
        const [right, bottom] = [0, 1].map(axis => Math.max(...boxes.map(box => box[axis] + box[axis + 2])));
        canvas.deselectAll();
        canvas.ds.scale = scale;
        canvas.ds.offset = [margin - left, margin - top];
        canvas.setDirty(true, true);
        return [right - left + 2 * margin, bottom - top + 2 * margin];
    }""", [SCALE, MARGIN])
    page.wait_for_timeout(DRAWN)
    return page.screenshot(clip={"x": 0, "y": 0, "width": width * SCALE, "height": height * SCALE})


if __name__ == "__main__":
    main(sys.argv[1:])
