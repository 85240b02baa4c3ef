"""The widgets of training and of adapters are the settings of the core: same names and defaults, only valid values."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from demo.server import ComfyUI
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.config import Config
from sidestep_core.estimate.config import EstimateConfig
from sidestep_core.estimate.selection import SelectionConfig
from sidestep_core.presets.text import parse_setting
from sidestep_core.training.config import TrainConfig

TRAINER, SETTINGS = "SideStepTrainAdapter", "SideStepTrainingSettings"
ESTIMATING = "SideStepEstimateGradients"
OF_THE_NODE = {"checkpoint", "dataset", "adapter_config", "settings", "start_from", "adapter_name",
               "if_already_trained", "resume_from", "auto_estimate", "polite", "estimate"}
OF_THE_PICTURE = {TRAINER: {"top_k"}, ESTIMATING: {"top_k"}}
"""Not a setting of that node's config."""
OWN = ["max_steps", "learning_rate", "chunk_duration", "seed", "preview_every"]
"""Settings of a training on the trainer itself; the others are on Training Settings."""
NODES: list[tuple[str, type[Config]]] = [
    (TRAINER, TrainConfig), (SETTINGS, TrainConfig), (ESTIMATING, EstimateConfig),
    ("SideStepConfigureLoRA", LoraConfig), ("SideStepConfigureLoKR", LokrConfig), ("SideStepConfigureLoHA", LohaConfig),
    *((node, SelectionConfig) for node in ("SideStepConfigureLoRA", "SideStepConfigureLoKR", "SideStepConfigureLoHA")),
]


LITERAL_ZERO = {"confidence", "strength", "strength_2", "strength_3"}
"""Numbers whose tooltip explains 0, which is the number 0."""


def widgets_of(server: ComfyUI, node: str, kind: type[Config]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Type and options of each widget that is not there for something else, in the order of the page."""
    others = {field.name for other, of_other in NODES if other == node and of_other != kind
              for field in fields(of_other)} | OF_THE_NODE | OF_THE_PICTURE.get(node, set())
    inputs = server.get_json(f"/object_info/{node}")[node]["input"]
    every = {**inputs["required"], **inputs.get("optional", {})}
    return {name: (io_type, options[0] if options else {}) for name, (io_type, *options) in every.items()
            if name not in others}


def setting(kind: type[Config], name: str, value: object) -> object:
    """Setting that the node makes of a widget's value."""
    return parse_setting(kind, name, value) if isinstance(value, str) else value


def settings_of(node: str, kind: type[Config]) -> list[str]:
    """Settings of the config that the node has, in their order."""
    names = [field.name for field in fields(kind)]
    return {TRAINER: OWN, SETTINGS: [name for name in names if name not in OWN]}.get(node, names)


def as_config(kind: type[Config], name: str, value: object) -> Config:
    """Config with the setting that the node makes of a widget's value."""
    return kind(**{name: setting(kind, name, value)})


@pytest.mark.parametrize(("node", "kind"), NODES)
def test_every_setting_has_a_widget(server: ComfyUI, node: str, kind: type[Config]) -> None:
    widgets = widgets_of(server, node, kind)
    assert sorted(widgets) == sorted(settings_of(node, kind))
    for field in fields(kind):
        if field.name not in widgets:
            continue
        assert field.default is not MISSING
        assert setting(kind, field.name, widgets[field.name][1]["default"]) == field.default


@pytest.mark.parametrize(("node", "kind"), NODES)
def test_widgets_offer_every_choice(server: ComfyUI, node: str, kind: type[Config]) -> None:
    choices = {name: list(get_args(hint)) for name, hint in get_type_hints(kind).items()
               if get_origin(hint) is Literal and name in settings_of(node, kind)}
    found = {name: options["options"] for name, (_, options) in widgets_of(server, node, kind).items()
             if "options" in options}
    assert found == choices


@pytest.mark.parametrize(("node", "kind"), NODES)
def test_allowed_values_are_valid(server: ComfyUI, node: str, kind: type[Config]) -> None:
    numbers = 0
    for name, (_, options) in widgets_of(server, node, kind).items():
        for value in [options["default"], *options.get("options", [])]:
            as_config(kind, name, value)
        if "min" in options:
            numbers += 1
            assert options["min"] <= options["default"] <= options["max"]
            for value in (options["min"], options["max"]):
                as_config(kind, name, value)
    assert numbers


@pytest.mark.parametrize("node", [TRAINER, SETTINGS])
def test_settings_keep_their_order(server: ComfyUI, node: str) -> None:
    assert list(widgets_of(server, node, TrainConfig)) == settings_of(node, TrainConfig)


def test_trainer_shows_few_widgets(server: ComfyUI) -> None:
    inputs = server.get_json(f"/object_info/{TRAINER}")[TRAINER]["input"]
    assert set(inputs["required"]) == {"checkpoint", "dataset", "adapter_config", "adapter_name", *OWN}
    shown = [name for name, (kind, options) in {**inputs["required"], **inputs["optional"]}.items()
             if not kind.startswith("SIDESTEP_") and not options.get("advanced")]
    assert shown == ["adapter_name", *OWN]


def test_training_settings_are_optional(server: ComfyUI) -> None:
    assert not server.get_json(f"/object_info/{SETTINGS}")[SETTINGS]["input"].get("required")


@pytest.mark.parametrize(("node", "name", "default", "word"), [
    (TRAINER, "chunk_duration", "whole songs", "whole songs"), (TRAINER, "preview_every", "never", "never"),
    (SETTINGS, "epochs", "use max_steps", "use max_steps"), (SETTINGS, "cfg_ratio", "automatic", "automatic"),
    (SETTINGS, "heldout_songs", "automatic", "automatic"), (SETTINGS, "early_stopping", "never", "never"),
    (SETTINGS, "shift", "automatic", "automatic"), (ESTIMATING, "estimate_batches", "automatic", "automatic"),
    (ESTIMATING, "chunk_duration", "60", "whole songs"),
    ("SideStepPreprocessAudioFolder", "max_seconds", "whole songs", "whole songs"),
    ("SideStepConfigureLoKR", "factor", "automatic", "automatic"),
    ("SideStepApplyAdapter", "alpha", "from the file", "from the file"),
    ("SideStepMergeAdapter", "alpha", "from the file", "from the file"),
])
def test_numbers_without_meaning_are_words(server: ComfyUI, node: str, name: str, default: str, word: str) -> None:
    inputs = server.get_json(f"/object_info/{node}")[node]["input"]
    io_type, options = {**inputs["required"], **inputs.get("optional", {})}[name]
    assert (io_type, options["default"]) == ("STRING", default)
    assert options["tooltip"].endswith(f"A number, or: {word}.")


def test_no_number_is_a_code(server: ComfyUI) -> None:
    nodes = {name: node for name, node in server.get_json("/object_info").items() if name.startswith("SideStep")}
    coded = {widget for node in nodes.values() for inputs in node["input"].values()
             for widget, (io_type, *options) in inputs.items() if io_type in ("INT", "FLOAT")
             and (options[0]["min"] == -1 or re.search(r"(^|[^\d.])(0|-1)( |:)", options[0]["tooltip"]))}
    assert coded == LITERAL_ZERO


@pytest.mark.parametrize(("name", "stated"), [
    ("timestep_mode", ("larger of two", "one draw", "eight times", "turbo")),
    ("cfg_ratio", ("turbo", "0.15", "guidance")),
    ("loss_weighting", ("damps nearly clean times", "not the noisy ones")),
    ("context_mode", ("audio codes", "silence", "measured")),
    ("schedule", ("1 %", "prodigy", "authors recommend")),
    ("optimizer", ("1.0", "pip install bitsandbytes", "pip install prodigyopt", "pip install schedulefree")),
    ("chunk_duration", ("60", "below it may hurt")),
    ("early_stopping", ("kept aside",)),
    ("target_loss", ("kept aside",)),
    ("publish", ("kept aside",)),
    ("gradient_checkpointing", ("auto", "memory")),
    ("base_precision", ("exactly as if unpacked", "change the result")),
    ("offload", ("more time", "same result")),
    ("compile", ("rounding", "No card was measured")),
    ("allow_fewer_bits", ("changes the result",)),
    ("shift", ("metadata", "never")),
    ("inference_steps", ("metadata", "never")),
])
def test_tooltips_state_the_facts(server: ComfyUI, name: str, stated: tuple[str, ...]) -> None:
    tooltip = widgets_of(server, TRAINER if name in OWN else SETTINGS, TrainConfig)[name][1]["tooltip"]
    assert [part for part in stated if part not in tooltip] == []


@pytest.mark.parametrize(("node", "kind"), NODES)
def test_tooltips_are_short(server: ComfyUI, node: str, kind: type[Config]) -> None:
    lengths = {name: len(options.get("tooltip", "")) for name, (_, options) in widgets_of(server, node, kind).items()}
    assert {name: length for name, length in lengths.items() if not 15 <= length <= 450} == {}
