"""The subgraph blueprint of the pack: songs, training, adapter and generation as one node of ComfyUI's library."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from .examples import GENERATE, LOADER, PREPROCESS, TRAINER, Example
from .setup import PACK

SCRIPT = Path(__file__).with_suffix(".js")
NAME = "Train on my songs (ACE-Step 1.5)"
FILE = PACK / "subgraphs" / f"{NAME}.json"
DESCRIPTION = ("Trains a LoRA for ACE-Step 1.5 on a folder of songs, puts it into the LoRA list, and generates a song "
               "with it. Enter the subgraph to see the loss curve and all settings.")
CATEGORY = "Audio/Side-Step"
WIDTH = 400
TEXT, LATENT, MODELS = "TextEncodeAceStepAudio1.5", "EmptyAceStep1.5LatentAudio", "UNETLoader"
INPUTS = (
    ("songs", ((PREPROCESS, "folder"),)), ("model", ((MODELS, "unet_name"),)),
    ("trigger_word", ((PREPROCESS, "trigger_word"),)), ("adapter_name", ((TRAINER, "adapter_name"),)),
    ("max_steps", ((TRAINER, "max_steps"),)), ("prompt", ((TEXT, "tags"),)),
    ("seconds", ((LATENT, "seconds"), (TEXT, "duration"))),
)
"""Label on the node, and the widgets inside that it sets."""
OUTPUTS = (("audio", "VAEDecodeAudio", 0), ("adapter", TRAINER, 0))
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def with_one_model(prompt: dict[str, Any]) -> dict[str, Any]:
    """Train on the file of ComfyUI's own loader, so that the model is chosen once."""
    [own] = [node for node, content in prompt.items() if content["class_type"] == LOADER]
    [models] = [node for node, content in prompt.items() if content["class_type"] == MODELS]
    return {node: {**content, "inputs": {name: [models, 0] if value == [own, 0] else value
                                         for name, value in content["inputs"].items()}}
            for node, content in prompt.items() if node != own}


EXAMPLE = Example(name=NAME, prompt=GENERATE.prompt, derive=with_one_model, groups=GENERATE.groups, note="")


def made(page: Page) -> dict[str, Any]:
    """Make the blueprint of the graph that is open in the page."""
    items = json.loads(page.evaluate(SCRIPT.read_text(encoding="utf-8"), {
        "inputs": [{"label": label, "slots": slots} for label, slots in INPUTS],
        "outputs": [{"label": label, "type": type_, "output": output} for label, type_, output in OUTPUTS],
        "width": WIDTH}))
    [node], [subgraph] = items["nodes"], items["subgraphs"]
    node["title"] = subgraph["name"] = NAME
    subgraph |= {"category": CATEGORY, "description": DESCRIPTION}
    content = {"revision": 0, "last_node_id": node["id"], "last_link_id": 0, "nodes": [node], "links": [],
               "version": 0.4, "definitions": {"subgraphs": [subgraph]}, "extra": {}}
    return _with_steady_ids(content)


def _with_steady_ids(content: dict[str, Any]) -> dict[str, Any]:
    """Replace ComfyUI's random ids, so that an unchanged graph is written as it was."""
    text = json.dumps(content)
    for number, found in enumerate(dict.fromkeys(_UUID.findall(text))):
        text = text.replace(found, str(uuid.uuid5(uuid.NAMESPACE_URL, f"{NAME}/{number}")))
    steady: dict[str, Any] = json.loads(text)
    return steady
