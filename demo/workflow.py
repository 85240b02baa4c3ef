"""Example workflows with their thumbnails, and the picture in the README, made from the demo's prompts.

Run `python -m demo.workflow` with COMFYUI_PATH set after a node or a prompt changed.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.config import PreprocessConfig
from sidestep_core.estimate.config import EstimateConfig
from sidestep_core.estimate.selection import SelectionConfig
from sidestep_core.presets.text import spelled
from sidestep_core.training.config import TrainConfig

from .browser import chromium, configure, open_page
from .server import ComfyUI, Prompt
from .setup import PACK, set_up
from .thumbnails import adapter_card, estimate_card, songs_card, write_thumbnails

HERE = Path(__file__).parent
PICTURE = PACK / "docs" / "graph.png"
TITLE_BAR = 30
MARGIN = 24
DRAWN = 1500
"""Milliseconds until the page has drawn a change."""
VIEW = {"width": 2400, "height": 1600}
SCALE = 0.8
BARE_PAGE = {"Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasMenu": False, "Comfy.Graph.CanvasInfo": False}

TRAINER, SETTINGS, LOADER = "SideStepTrainAdapter", "SideStepTrainingSettings", "SideStepLoadACEStepCheckpoint"
PREPROCESS, LORA, NOTE = "SideStepPreprocessAudioFolder", "SideStepConfigureLoRA", "MarkdownNote"
EXTRA_HEIGHTS = {"TextEncodeAceStepAudio1.5": 40, "PreviewImage": 380, "PreviewAny": 380}
"""Pixels added to a node's minimum height, so that its text or picture is legible."""
NOTE_HEIGHT = 300
MODEL, TEXT_ENCODER, LANGUAGE_MODEL, VAE = (
    "acestep_v1.5_turbo.safetensors", "qwen_0.6b_ace15.safetensors", "qwen_1.7b_ace15.safetensors",
    "ace_1.5_vae.safetensors")
FILES = {
    LOADER: [("diffusion_models", MODEL), ("text_encoders", TEXT_ENCODER), ("vae", VAE)],
    "UNETLoader": [("diffusion_models", MODEL)],
    "DualCLIPLoader": [("text_encoders", TEXT_ENCODER), ("text_encoders", LANGUAGE_MODEL)],
    "VAELoader": [("vae", VAE)],
}
DOWNLOADS = "https://huggingface.co/Comfy-Org/ace_step_1.5_ComfyUI_files/resolve/main/split_files"
"""Address of the files in ComfyUI's own ACE-Step 1.5 templates; ComfyUI offers to fetch missing ones."""
SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Column:
    """Nodes of one width below each other, by class; a workflow has one node of each."""

    width: int
    types: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Columns with a frame around them.  A template is at most 1800 x 1160: ComfyUI fits it into a window of
    1400 x 900, and larger ones lose legible titles."""

    title: str
    color: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, kw_only=True)
class Example:
    """Example workflow: its prompt and its layout."""

    name: str
    prompt: Path
    groups: tuple[Group, ...]
    note: str
    """Instructions in Markdown."""

    @property
    def file(self) -> Path:
        return PACK / "example_workflows" / f"{self.name}.json"

    @property
    def thumbnail(self) -> Path:
        return self.file.with_suffix(".jpg")


BLUE, GREEN = "#3f789e", "#88aa88"
GENERATE = Example(
    name="Train, then generate", prompt=HERE / "train_then_generate.api.json",
    groups=(
        Group(title="1. Train", color=BLUE, columns=(
            Column(width=340, types=(NOTE, LOADER, LORA, SETTINGS)),
            Column(width=400, types=(PREPROCESS, TRAINER)))),
        Group(title="2. Generate", color=GREEN, columns=(
            Column(width=320, types=("UNETLoader", "DualCLIPLoader", "VAELoader", "SideStepApplyAdapter",
                                     "ModelSamplingAuraFlow", "EmptyAceStep1.5LatentAudio", "ConditioningZeroOut",
                                     "VAEDecodeAudio")),
            Column(width=380, types=("TextEncodeAceStepAudio1.5", "KSampler", "SaveAudio"))))),
    note="1. Put your songs into one folder and write its path into **Audio Folder to Dataset**.\n"
         "2. Press **Run**. The adapter lands in your LoRA list. Cancel keeps what is trained; Run continues.\n"
         "3. Change the prompt and press **Run** again: the training is not repeated. Your trigger word calls the "
         "style.")
ESTIMATE = Example(
    name="Estimate, choose, train", prompt=HERE / "estimate_choose_train.api.json",
    groups=(
        Group(title="1. Estimate, choose, train", color=BLUE, columns=(
            Column(width=340, types=(NOTE, LOADER, LORA, SETTINGS)),
            Column(width=400, types=(PREPROCESS, "SideStepEstimateGradients")),
            Column(width=380, types=(TRAINER,)))),
        Group(title="2. What it found", color=GREEN, columns=(
            Column(width=480, types=("PreviewImage", "PreviewAny")),))),
    note="1. Put your songs into one folder and write its path into **Audio Folder to Dataset**.\n"
         "2. Press **Run**. The heat map shows what your music would change most; the best modules are framed.\n"
         "3. **Configure LoRA** trains only those: *top_k* of them. To look first, mute **Train LoRA (ACE-Step)** "
         "(Ctrl+M).")
BUILD = Example(
    name="Build a dataset, then train", prompt=HERE / "build_then_train.api.json",
    groups=(
        Group(title="1. Songs, dataset, training", color=BLUE, columns=(
            Column(width=340, types=(NOTE, LOADER, LORA, SETTINGS)),
            Column(width=540, types=("SideStepBuildDataset", "SideStepAnalyzeSongs")),
            Column(width=400, types=(PREPROCESS, TRAINER)))),
        Group(title="2. What is in it", color=GREEN, columns=(
            Column(width=340, types=("PreviewAny", "SideStepDatasetCache")),))),
    note="1. Put your songs into one folder and write its path into **Build Dataset**.\n"
         "2. Mute **Train LoRA (ACE-Step)** (Ctrl+M) and press **Run**. Look through the table: listen, and correct "
         "captions, lyrics and tempo with the pencil.\n"
         "3. Unmute it and press **Run** again: only changed songs are encoded again.")
EXAMPLES = (GENERATE, ESTIMATE, BUILD)
PROMPT = GENERATE.prompt
DEMO = HERE / "train_then_generate.json"
"""Workflow with the demo's own values, opened by `run.py comfyui`."""


def main() -> None:
    """Write the workflow files and the pictures."""
    setup = set_up()
    with ComfyUI(setup.host, setup.base, pack=PACK, extra_args=setup.extra_args) as server, chromium() as browser:
        for example in EXAMPLES:
            prompt = json.loads(example.prompt.read_text(encoding="utf-8"))
            # Run first and without a page: nodes then show their history.
            outcome = server.run(prompt)
            if outcome.status != "success":
                raise SystemExit(f"{example.name} ended with {outcome.status}. {outcome.exception_message}")
            configure(server, nodes_2=False)
            with open_page(browser, server, **VIEW) as page:
                write(example.file, draw(page, example, for_people(prompt)))
            with open_page(browser, server, **VIEW) as page:
                graph = draw(page, example, prompt)
            if example == GENERATE:
                write(DEMO, graph)
                configure(server, nodes_2=True, **BARE_PAGE)
                with open_page(browser, server, **VIEW) as page:
                    photograph(page, graph)
    write_thumbnails({GENERATE.thumbnail: adapter_card, ESTIMATE.thumbnail: estimate_card, BUILD.thumbnail: songs_card})


def write(path: Path, graph: dict[str, Any]) -> None:
    """Write a workflow file."""
    path.write_text(json.dumps(graph, indent=2) + "\n", encoding="utf-8", newline="\n")


def for_people(prompt: Prompt) -> dict[str, Any]:
    """Replace a demo prompt's values with those of a real training: usual file names, defaults, whole minutes."""
    values: dict[str, dict[str, Any]] = {
        LOADER: {"model": MODEL, "text_encoder": TEXT_ENCODER, "vae": VAE},
        PREPROCESS: {**spelled(PreprocessConfig()), "folder": "my_songs", "dataset_name": "my_music",
                     "trigger_word": "mystyle"},
        "SideStepBuildDataset": {"folder": "my_songs", "dataset_name": "my_music", "trigger_word": "mystyle"},
        "SideStepAnalyzeSongs": {"dataset_name": "my_music"},
        # target_mlp is each example's own: an estimate is to choose among the MLPs too.
        LORA: {name: " ".join(value) if isinstance(value, list) else value
               for name, value in LoraConfig().to_json().items() if name != "target_mlp"}
              | SelectionConfig().to_json(),
        "SideStepEstimateGradients": {**spelled(EstimateConfig()), "top_k": SelectionConfig.top_k},
        TRAINER: {**spelled(TrainConfig()), "chunk_duration": f"{SECONDS:g}", "adapter_name": "my_lora"},
        "UNETLoader": {"unet_name": MODEL},
        "DualCLIPLoader": {"clip_name1": TEXT_ENCODER, "clip_name2": LANGUAGE_MODEL},
        "VAELoader": {"vae_name": VAE},
        "TextEncodeAceStepAudio1.5": {"tags": "mystyle, warm electric piano, soft drums", "duration": SECONDS},
        "EmptyAceStep1.5LatentAudio": {"seconds": SECONDS},
        "SaveAudio": {"filename_prefix": "audio/my_lora"},
    }
    changed: dict[str, Any] = {number: copy.deepcopy(node) for number, node in prompt.items()
                               if node["class_type"] != SETTINGS}
    for node in changed.values():
        node["inputs"].pop("settings", None)
        new = values.get(node["class_type"], {})
        node["inputs"] |= {name: new[name] for name in node["inputs"].keys() & new.keys()}
    return changed


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
    for node in graph["nodes"]:
        usual = [file for file in FILES.get(node["type"], []) if file[1] in node["widgets_values"]]
        if usual:
            node["properties"]["models"] = [{"name": name, "directory": folder, "url": f"{DOWNLOADS}/{folder}/{name}"}
                                            for folder, name in usual]
    return graph


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
    main()
