"""Tables and names in the documents that follow from the code: nodes, presets, settings and memory."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.memory import held
from sidestep_core.adapters import registry
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.model.decoder import Decoder, DecoderGeometry
from sidestep_core.training.memory import GIB, Batch, Need, layer_bytes
from sidestep_core.training.optim.optimizers import STATE_BYTES

ROOT = Path(__file__).parent.parent.parent
BF16, FP32 = 2, 4
FRAMES, TOKENS = 3000, 400
"""120 seconds at 25 latent frames, and tokens of caption and lyrics."""


OTHER_NAMES = {
    "my_songs",  # an example
    "generate_audio_codes",  # of ComfyUI's text node
    "sidestep_songs", "sidestep_estimates",  # of extra_model_paths.yaml
    "is_instrumental", "trigger_word", "tag_position",  # of text beside songs
    "init_lora_weights", "q_proj", "k_proj", "trained_songs",
    "heldout_values", "by_heart", "by_heart_share",  # of metrics.jsonl
}  # fmt: skip
PAGES = ["README.md", "docs/troubleshooting.md", *(f"docs/guide/{path.name}" for path in sorted(
    (ROOT / "docs" / "guide").glob("*.md")))]


def rows(page: str) -> list[list[str]]:
    """Cells of a page's tables, headings and rules left out."""
    lines = [line for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| ---")]


def test_nodes_are_listed_with_outputs() -> None:
    interface = json.loads((ROOT / "tests" / "host" / "node_interface.json").read_text(encoding="utf-8"))
    pages = sorted((ROOT / "web" / "docs").glob("*.md"))
    names = {page.stem: page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for page in pages}
    assert set(names) == set(interface)
    expected = [[f"[{names[node]}](../web/docs/{node}.md)", ", ".join(f"`{name}`" for name in facts["output_names"])]
                for node, facts in interface.items()]
    assert sorted(cells[:2] for cells in rows("docs/nodes.md")[1:]) == sorted(expected)


def needed(size: DecoderGeometry) -> Need:
    """Memory of a training that recomputes every layer, as memory.plan has it on a card."""
    config = LoraConfig()
    with torch.device("meta"):
        decoder = Decoder(size)
    adapter = registry.capacity(config, size).total
    batch = Batch(samples=1, frames=FRAMES, tokens=TOKENS, bytes=BF16, dropout=True, gpu=True)
    return Need(weights=sum(parameter.numel() for parameter in decoder.parameters()) * BF16, adapter=adapter * FP32,
                trained=round(adapter * (FP32 + STATE_BYTES["adamw"])), layers=size.layers, recomputed=size.layers,
                layer=layer_bytes(size, target_modules(config, size.layers), batch),
                layer_input=FRAMES // size.patch * size.width * BF16)


def memory_column(size: DecoderGeometry) -> list[str]:
    need = needed(size)
    file = need.adapter / 1e6
    plain = held(size)
    offloaded = replace(need, layer_weights=plain.layer, offloaded=size.layers).resident
    amounts = (need.weights, need.adapter + need.trained, need.activations, need.total,
               replace(need, recomputed=0).activations, held(size, "int8").total, held(size, "nf4").total, offloaded)
    assert plain.total == need.weights
    return [*(f"{amount / GIB:.1f} GiB" for amount in amounts), f"{file:.0f} MB", f"{file / 4:.0f} MB"]


@pytest.mark.parametrize(("column", "model"), enumerate(registry.SIZES, start=1))
def test_memory_table_is_computed(column: int, model: str) -> None:
    table = rows("docs/guide/memory.md")
    assert table[0][column] == model
    assert [cells[column].strip("*") for cells in table[1:]] == memory_column(registry.SIZES[model])


def test_presets_are_listed() -> None:
    listed = {cells[0].strip("`") for cells in rows("docs/guide/training.md")[1:]}
    assert listed == built_in()


def built_in() -> set[str]:
    return {path.stem for path in (ROOT / "sidestep_core" / "presets" / "built_in").glob("*.json")}


def known_names() -> set[str]:
    """Inputs, choices and outputs of all nodes, and presets."""
    nodes = json.loads((ROOT / "tests" / "host" / "node_interface.json").read_text(encoding="utf-8")).values()
    inputs = [(name, facts) for node in nodes for name, facts in node["inputs"].items()]
    choices = {str(choice) for _, facts in inputs for choice in facts.get("options", ())}
    outputs = {name for node in nodes for name in node["output_names"]}
    return {name for name, _ in inputs} | choices | outputs | built_in()


@pytest.mark.parametrize("page", PAGES)
def test_settings_in_the_text_exist(page: str) -> None:
    named = re.findall(r"`([a-z0-9]+(?:_[a-z0-9]+)+)`", (ROOT / page).read_text(encoding="utf-8"))
    assert set(named) - known_names() - OTHER_NAMES == set()


def test_every_other_name_is_used() -> None:
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    assert {name for name in OTHER_NAMES if name not in text} == set()


def test_output_folders_are_listed() -> None:
    source = (ROOT / "nodes" / "host" / "folders.py").read_text(encoding="utf-8")
    written = set(re.findall(r'_output\("(\w+)"\)', source))
    page = (ROOT / "docs" / "guide" / "files.md").read_text(encoding="utf-8")
    assert len(written) > 3
    assert set(re.findall(r"`output/sidestep/(\w+)/", page)) == written
