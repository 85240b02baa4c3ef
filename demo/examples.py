"""Example workflows: the prompt, the layout, the instructions and the values for people of each.

Three prompts are files in the format of ComfyUI's API, with values for the demo's tiny model; the others are made of
them.  `workflow.py` draws all.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.config import PreprocessConfig
from sidestep_core.estimate.config import EstimateConfig
from sidestep_core.estimate.selection import SelectionConfig
from sidestep_core.presets.text import spelled
from sidestep_core.training.config import TrainConfig

from .server import Prompt
from .setup import PACK

HERE = Path(__file__).parent

TRAINER, SETTINGS, LOADER = "SideStepTrainAdapter", "SideStepTrainingSettings", "SideStepLoadACEStepCheckpoint"
PREPROCESS, LORA, NOTE = "SideStepPreprocessAudioFolder", "SideStepConfigureLoRA", "MarkdownNote"
LOKR, COMPARE = "SideStepConfigureLoKR", "SideStepCompareAdapters"
MODEL, TEXT_ENCODER, LANGUAGE_MODEL, VAE = (
    "acestep_v1.5_turbo.safetensors", "qwen_0.6b_ace15.safetensors", "qwen_1.7b_ace15.safetensors",
    "ace_1.5_vae.safetensors")
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
    derive: Callable[[dict[str, Any]], dict[str, Any]] = lambda prompt: prompt
    """Make the prompt of this example from that of the file."""
    people: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Values for people of this example alone, by class of node."""

    @property
    def file(self) -> Path:
        return PACK / "example_workflows" / f"{self.name}.json"

    def demo_prompt(self) -> dict[str, Any]:
        """Return the prompt with values for the demo's model."""
        return self.derive(json.loads(self.prompt.read_text(encoding="utf-8")))

    def prompt_for_people(self) -> dict[str, Any]:
        """Return the prompt with the values of the template."""
        return for_people(self.demo_prompt(), self.people)

    @property
    def thumbnail(self) -> Path:
        return self.file.with_suffix(".jpg")

def upstream(prompt: Prompt, class_type: str) -> dict[str, Any]:
    """Return a copy of the node of this class with everything that it needs."""
    needed, found = [_node(prompt, class_type)], {}
    while needed:
        node = needed.pop()
        found[node] = copy.deepcopy(prompt[node])
        needed += [value[0] for value in prompt[node]["inputs"].values() if isinstance(value, list)]
    return found


def _node(prompt: Prompt, class_type: str) -> str:
    return next(node for node, content in prompt.items() if content["class_type"] == class_type)


def _with_lokr(prompt: dict[str, Any]) -> dict[str, Any]:
    """Train a LoKR instead of the LoRA, and generate nothing."""
    found = upstream(prompt, TRAINER)
    small = {"linear_dim": 8, "alpha": 8.0}
    found[_node(found, LORA)] = {"class_type": LOKR, "inputs": _widgets(LokrConfig()) | small}
    found[_node(found, TRAINER)]["inputs"] |= {"adapter_name": "demo_lokr", "learning_rate": 0.01}
    return found


def _continuing(prompt: dict[str, Any]) -> dict[str, Any]:
    """Train for longer than in the file, from the newest checkpoint of the run."""
    found = upstream(prompt, TRAINER)
    found[_node(found, TRAINER)]["inputs"] |= {"adapter_name": "demo_longer", "max_steps": 50}
    return found


def _comparing(prompt: dict[str, Any]) -> dict[str, Any]:
    """Compare the demo's adapter with the base, in place of KSampler and VAE Decode Audio."""
    sampler = prompt.pop(_node(prompt, "KSampler"))["inputs"]
    shifted = prompt[_node(prompt, "ModelSamplingAuraFlow")]["inputs"]
    shifted["model"] = [_node(prompt, "UNETLoader"), 0]
    inputs: dict[str, Any] = {"strengths": "0.7, 1.0"}
    for number in (1, 2, 3):
        inputs |= {f"adapter_file_{number}": "none", f"strengths_{number}": "0.7, 1.0" if number == 1 else "1.0"}
    inputs |= {"adapter_file_1": "demo.safetensors", "vae": [_node(prompt, "VAELoader"), 0]}
    number = _node(prompt, "VAEDecodeAudio")
    prompt[number] = {"class_type": COMPARE, "inputs": sampler | inputs}
    return upstream(prompt, COMPARE)


def _widgets(config: LokrConfig) -> dict[str, Any]:
    """Spell a configuration as the widgets of its node have it."""
    values = {**spelled(config), **SelectionConfig().to_json()}
    return {name: " ".join(value) if isinstance(value, list) else value for name, value in values.items()
            if name != "kind"}


BLUE, GREEN = "#3f789e", "#88aa88"
BASE_OR_TURBO = ("\n\n**Base or turbo**: users report that an adapter trained on base works on turbo, too, and keeps "
                 "its distillation; one trained on turbo does less on base.")
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
         "style." + BASE_OR_TURBO)
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
         "(Ctrl+M)." + BASE_OR_TURBO)
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
         "3. Unmute it and press **Run** again: only changed songs are encoded again." + BASE_OR_TURBO)
LOKR_EXAMPLE = Example(
    name="Train a LoKR", prompt=GENERATE.prompt, derive=_with_lokr,
    groups=(Group(title="Train a LoKR", color=BLUE, columns=(
        Column(width=340, types=(NOTE, LOADER, LOKR, SETTINGS)), Column(width=400, types=(PREPROCESS,)),
        Column(width=400, types=(TRAINER,)))),),
    people={TRAINER: {"adapter_name": "my_lokr"}},
    note="A LoKR is a smaller file than a LoRA, and holds on to a style with fewer numbers.\n\n"
         "1. Put your songs into one folder and write its path into **Audio Folder to Dataset**.\n"
         "2. Press **Run**. The adapter lands in your LoRA list; *factor* on **Configure LoKR** decides its size.\n"
         "3. To hear it, open the template **Compare adapters**." + BASE_OR_TURBO)
CONTINUE = Example(
    name="Continue a run", prompt=GENERATE.prompt, derive=_continuing,
    groups=(Group(title="Continue a run", color=BLUE, columns=(
        Column(width=340, types=(NOTE, LOADER, LORA, SETTINGS)), Column(width=400, types=(PREPROCESS,)),
        Column(width=400, types=(TRAINER,)))),),
    people={TRAINER: {"max_steps": 2000}},
    note="**A stopped run**: open its workflow and press **Run**. It continues by itself.\n\n"
         "**A finished run, for longer**: use the same songs, adapter and seed as before. Open the advanced settings "
         "of **Train LoRA (ACE-Step)**, choose its last checkpoint in *resume_from*, write the new total into "
         "*max_steps*, and press **Run**.\n\n"
         "The tab **Runs** of the sidebar has a button that does both.")
COMPARING = Example(
    name="Compare adapters", prompt=GENERATE.prompt, derive=_comparing,
    groups=(
        Group(title="1. Prompt", color=GREEN, columns=(
            Column(width=340, types=(NOTE, "UNETLoader", "DualCLIPLoader", "VAELoader", "ModelSamplingAuraFlow")),
            Column(width=380, types=("TextEncodeAceStepAudio1.5", "ConditioningZeroOut",
                                     "EmptyAceStep1.5LatentAudio")))),
        Group(title="2. Compare", color=BLUE, columns=(Column(width=420, types=(COMPARE,)),))),
    people={COMPARE: {"adapter_file_1": "none"}},
    note="1. Choose an adapter, or a checkpoint of a run, in *adapter_file_1* of **Compare Adapters**, and its "
         "strengths.\n"
         "2. Write your prompt, with the trigger word, and press **Run**. All takes have the same prompt and seed.\n"
         "3. Play, and press **1**, **2**, **3** to switch. **Blind test** hides the names until you have voted.")
QUICK = Example(
    name="Quick test (tiny)", prompt=GENERATE.prompt,
    groups=(
        Group(title="1. Train", color=BLUE, columns=(
            Column(width=400, types=(NOTE, LOADER, PREPROCESS)), Column(width=400, types=(LORA, SETTINGS, TRAINER)))),
        GENERATE.groups[1]),
    people={TRAINER: {"max_steps": 20, "chunk_duration": "10", "adapter_name": "quick_test"},
            PREPROCESS: {"dataset_name": "quick_test", "max_seconds": "30"}, LORA: {"rank": 8, "alpha": 16.0},
            "TextEncodeAceStepAudio1.5": {"duration": 10.0}, "EmptyAceStep1.5LatentAudio": {"seconds": 10.0},
            "SaveAudio": {"filename_prefix": "audio/quick_test"}},
    note="Shows in a few minutes that everything works on your computer: 20 steps on 30 seconds of each song. It is "
         "too short to learn a style.\n\n"
         "1. Put two or three songs into one folder and write its path into **Audio Folder to Dataset**.\n"
         "2. Press **Run**. The curve appears on **Train LoRA (ACE-Step)**, and a new song of 10 seconds at the end.\n"
         "3. Then open the template **Train, then generate**.")
EXAMPLES = (GENERATE, LOKR_EXAMPLE, BUILD, ESTIMATE, CONTINUE, COMPARING, QUICK)
PROMPT = GENERATE.prompt


def for_people(prompt: Prompt, own: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Replace a demo prompt's values with those of a real training: usual file names, defaults, whole minutes, and
    `own` ones by class of node."""
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
        LOKR: _widgets(LokrConfig()),
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
        new = {**values.get(node["class_type"], {}), **(own or {}).get(node["class_type"], {})}
        node["inputs"] |= {name: new[name] for name in node["inputs"].keys() & new.keys()}
    return changed
