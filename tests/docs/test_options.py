"""docs/options.md has every option of Side-Step's command line and every setting of this trainer."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from sidestep_core.adapters.registry import configs
from sidestep_core.config import Config
from sidestep_core.dataset.config import PreprocessConfig
from sidestep_core.estimate.config import EstimateConfig
from sidestep_core.estimate.selection import SelectionConfig
from sidestep_core.presets.text import WORDS
from sidestep_core.training.config import TrainConfig

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "options.md"

OPTIONS = {
    "Global": "--plain --yes -y",
    "fixed": """
        --checkpoint-dir --model-variant --base-model --device --precision --dataset-dir --num-workers --pin-memory
        --no-pin-memory --prefetch-factor --persistent-workers --no-persistent-workers --lr --learning-rate --batch-size
        --gradient-accumulation --epochs --warmup-steps --weight-decay --max-grad-norm --seed --chunk-duration --shift
        --num-inference-steps --optimizer-type --scheduler-type --gradient-checkpointing --no-gradient-checkpointing
        --offload-encoder --no-offload-encoder --adapter-type --rank -r --alpha --dropout --target-modules --bias
        --attention-type --self-target-modules --cross-target-modules --lokr-linear-dim --lokr-linear-alpha
        --lokr-factor --lokr-decompose-both --lokr-use-tucker --lokr-use-scalar --lokr-weight-decompose --output-dir
        --save-every --resume-from --log-dir --log-every --log-heavy-every --sample-every-n-epochs --preprocess
        --audio-dir --dataset-json --tensor-output --max-duration --normalize --cfg-ratio --loss-weighting
        --snr-gamma""",
    "selective": "--module-config --auto-estimate --estimate-batches --top-k --granularity",
    "estimate": """
        --checkpoint-dir --model-variant --base-model --device --precision --dataset-dir --batch-size --num-workers
        --seed --estimate-batches --top-k --granularity --output""",
    "compare-configs": "--configs",
    "build-dataset": "--input -i --tag --tag-position --genre-ratio --name --output",
}
"""Subcommand -> its options, as the argument reference lists them."""

CONFIGS = [TrainConfig, PreprocessConfig, EstimateConfig, SelectionConfig, *configs().values()]


def sections() -> dict[str, str]:
    """The page's chapters, by the subcommand that they are about."""
    chapters = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {chapter.split("\n")[0].split(":")[0].strip("`"): chapter for chapter in chapters}


def rows(chapter: str) -> list[list[str]]:
    """The cells of its tables."""
    lines = [line for line in chapter.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("subcommand", OPTIONS)
def test_options_are_listed_once(subcommand: str) -> None:
    named = [option for row in rows(sections()[subcommand]) for option in re.findall(r"`(-[\w-]+)`", row[0])]
    assert sorted(named) == sorted(OPTIONS[subcommand].split())


@pytest.mark.parametrize("subcommand", OPTIONS)
def test_rows_have_a_place_or_reason(subcommand: str) -> None:
    for option, here, why in rows(sections()[subcommand]):
        assert here, option
        assert why or "not in this version" in here or "`" in here, option
        assert not (here == "not here" and not why), option


@pytest.mark.parametrize("kind", CONFIGS)
def test_settings_are_listed(kind: type[Config]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [field.name for field in fields(kind) if f"`{field.name}`" not in page] == []


def test_named_settings_exist() -> None:
    """A renamed setting must not live on in the page."""
    known = {field.name for kind in CONFIGS for field in fields(kind)} | set(OPTIONS)
    of_nodes = {"model", "text_encoder", "vae", "variant", "dataset", "dataset_name", "adapter_name", "folder",
                "resume_from", "start_from", "json", "kind", "auto_estimate", "estimate", "estimate_file", "estimate_1",
                "estimate_4", "name", "trigger_word", "trigger_position", "all_instrumental", "language",
                "prompt_override"}
    values = {"adamw", "adamw8bit", "adafactor", "prodigy", "adamw_schedulefree", "cosine", "cosine_restarts", "linear",
              "constant", "constant_with_warmup", "auto", "automatic", "on", "off", "both", "self", "cross", "none",
              "min_snr", "min_snr_flow", "prepend", "continuous", "logit_normal", "discrete", "silence", "last",
              "parameters", "layer", "module", "signal", "gain", "gradient_norm",
              "gradient_norm_per_size", "fisher", "peak", "lufs", "comfyui", "official", "varlen", "flash_attn", "sdpa",
              "as_file", "bf16", "int8", "fp8", "nf4", "independent", "mixed", "sampler", "stratified",
              "timed", "above_average", "one", "all"}
    named = re.findall(r"`([a-z]\w*)`", re.sub(r"^#.*$", "", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert sorted(set(named) - known - of_nodes - values) == []


def inputs_by_name() -> dict[str, dict[str, Any]]:
    """Inputs of every node, by its display name."""
    pages = sorted((ROOT / "web" / "docs").glob("*.md"))
    ids = {page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "): page.stem for page in pages}
    interface = json.loads((ROOT / "tests" / "host" / "node_interface.json").read_text(encoding="utf-8"))
    inputs = {name: dict(interface[node]["inputs"]) for name, node in ids.items()}
    return inputs | {"the Configure nodes": {key: value for kind in ("LoRA", "LoKR", "LoHA")
                                             for key, value in inputs[f"Configure {kind}"].items()}}


def lacking(text: str) -> list[str]:
    """Settings that a text places on a node that does not have them."""
    inputs = inputs_by_name()
    places = re.split(f"({'|'.join(map(re.escape, inputs))})", text)
    return [f"{node}: {setting}" for node, after in zip(places[1::2], places[2::2], strict=True)
            if after.startswith(":") for setting in re.findall(r"`([a-z]\w*)`", after)
            if setting not in inputs[node]]


def places() -> list[tuple[str, str]]:
    """(`Node: settings`, default as the page has it) of every row."""
    every = [row for chapter in sections().values() for row in rows(chapter)]
    return [(row[1] if row[0].startswith("`-") else f"{row[1]}: {row[0]}", row[2]) for row in every]


def test_settings_are_on_the_named_nodes() -> None:
    assert [found for place, _ in places() for found in lacking(place)] == []


def shown(default: object) -> str:
    """Default of a widget as the page has it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, (int, float)) else str(default)


def test_defaults_are_those_of_the_widgets() -> None:
    wrong, checked = [], 0
    for place, text in places():
        node, _, setting = place.partition(": ")
        facts = inputs_by_name().get(node, {}).get(setting.strip("`"), {})
        if "default" in facts and (facts["type"] != "STRING" or facts["default"] in WORDS.values()):
            checked += 1
            if not text.lower().replace("`", "").replace("*", "").startswith(shown(facts["default"])):
                wrong.append(f"{place} is {shown(facts['default'])}, but the page has: {text}")
    assert checked > 35
    assert wrong == []


def test_a_setting_on_another_node_is_found() -> None:
    assert lacking("Build Dataset: `folder` or Split Songs: `folder`, `at`") == ["Split Songs: folder"]
