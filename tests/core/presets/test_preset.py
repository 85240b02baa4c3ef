"""Presets: the built-in ones, shared files, and no unknown setting ignored."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.file import METADATA_KEY
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.registry import SIZES, capacity, configs
from sidestep_core.adapters.targets import target_modules
from sidestep_core.errors import ConfigError
from sidestep_core.io import atomic
from sidestep_core.io.tensors import write_tensors
from sidestep_core.presets import preset as presets
from sidestep_core.presets.preset import BUILT_IN, Preset, read
from sidestep_core.training.config import TrainConfig

SEED: dict[str, tuple[int, int, dict[str, Any]]] = {
    "recommended": (64, 10, {}),
    "high_quality": (128, 250, {"epochs": 1000}),
    "quick_test": (16, 5, {"epochs": 10, "warmup_steps": 10, "log_every": 5}),
    "vram_24gb_plus": (128, 10, {"batch_size": 2, "gradient_accumulation": 2}),
    "vram_16gb": (64, 10, {}),
    "vram_12gb": (32, 10, {"optimizer": "adamw8bit"}),
    "vram_8gb": (16, 10, {"optimizer": "adamw8bit", "gradient_accumulation": 8}),
}
"""Name -> rank, epochs between two checkpoints, and differences from the first one, as in Side-Step 0.8."""


@pytest.mark.parametrize("name", presets.SIDE_STEPS)
def test_built_in_presets_match_side_step(name: str) -> None:
    """All but gradient checkpointing, which Side-Step switches on for every card; here it follows the free memory.
    Its cfg_ratio of 0.15 is off on turbo there; here it is automatic, as is its schedule, cosine."""
    rank, epochs_between_saves, other = SEED[name]
    found = presets.load_built_in(name)
    usual = TrainConfig(learning_rate=1e-4, epochs=100, warmup_steps=100, cfg_ratio=None, gradient_accumulation=4)
    expected = replace(usual, **other)
    # Side-Step counts epochs between saves; with ten songs they convert to these steps.
    assert found.train.save_every == -(-epochs_between_saves * 10 // expected.samples_per_step)
    assert replace(found.train, save_every=expected.save_every) == expected
    assert found.adapter == LoraConfig(rank=rank, alpha=2 * rank, dropout=0.1)
    assert found.name == name
    assert found.description


def test_folder_holds_only_built_in_presets() -> None:
    assert sorted(path.stem for path in presets.FOLDER.iterdir()) == sorted(BUILT_IN)
    assert sorted(presets.SIDE_STEPS) == sorted(SEED)


def test_mlp_preset_differs_in_its_mlps_only() -> None:
    usual, found = (presets.load_built_in(name) for name in ("recommended", "mlp_low_rank"))
    assert found.train == usual.train
    assert isinstance(found.adapter, LoraConfig)
    assert replace(found.adapter, target_mlp=False, module_ranks=()) == usual.adapter
    ranks = target_modules(found.adapter, 2)
    assert {rank for module, rank in ranks.items() if ".mlp." in module} == {16}
    assert {rank for module, rank in ranks.items() if ".mlp." not in module} == {64}
    sizes = [capacity(one.adapter, SIZES["2B"]).total for one in (found, usual)]
    assert 1.1 < sizes[0] / sizes[1] < 1.25


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="no built-in preset '../run'; there are recommended"):
        presets.load_built_in("../run")


PRESETS = [
    Preset(name="mine", adapter=LoraConfig(rank=8, module_ranks=("layers.0.*=4",)), train=TrainConfig(max_steps=5)),
    Preset(name="Kronecker", description="M\u00fcller's\nown", adapter=LokrConfig(factor=8)),
    Preset(name="", adapter=LohaConfig(use_scalar=True), train=TrainConfig(preview_lyrics="[Verse]\nla\n")),
]


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_round_trips(preset: Preset, tmp_path: Path) -> None:
    path = tmp_path / "preset.json"
    atomic.write_text(path, preset.to_text())
    assert read(path) == presets.Imported(preset=preset)
    assert read(preset.to_text()).preset == preset
    assert read("\ufeff" + preset.to_text()).preset == preset


def test_missing_settings_keep_defaults() -> None:
    found = read('{"sidestep_preset": 1, "train": {"max_steps": 7}}').preset
    assert found == Preset(name="", train=TrainConfig(max_steps=7))


def test_foreign_preset_has_notes(tmp_path: Path) -> None:
    path = tmp_path / "warm_tapes.json"
    path.write_text('{"lora_r": 8, "lora_alpha": 8, "torch_compile": false}', encoding="utf-8")
    found = read(path)
    assert found.preset == Preset(name="warm_tapes", adapter=LoraConfig(rank=8, alpha=8))
    assert found.notes == ("torch_compile: not used, it depends on the computer; compile is off until it is set.",)


DEEP = "[" * 100_000
OURS = '{"sidestep_preset": 1, '


@pytest.mark.parametrize(("text", "problem"), [
    ("", "not the JSON"),
    ("[]", "it must be an object"),
    ("{", "not the JSON"),
    (DEEP, "not the JSON"),
    ('{"rank": 8, "rank": 8}', "rank is set twice"),
    (OURS + '"train": {"seed": 1, "seed": 2}}', "seed is set twice"),
    (OURS + '"train": {"learning_rate": NaN}}', "NaN is not a finite number"),
    (OURS + '"train": {"learning_rate": -Infinity}}', "not a finite number"),
    (OURS + '"train": {"learning_rate": 1e999}}', "1e999 is not a finite number"),
    (OURS + f'"train": {{"seed": {"9" * 5000}}}}}', "has 5000 digits"),
    (OURS + '"train": {"lerning_rate": 1}}', "no setting lerning_rate"),
    (OURS + '"train": {"learning_rate": "1"}}', "learning_rate must be a number"),
    (OURS + '"train": {"max_steps": null}}', "max_steps must be a whole number"),
    (OURS + '"train": []}', "train must be an object, got a list of 0"),
    (OURS + '"adapter": null}', "adapter must be an object, got None"),
    (OURS + '"adapter": {"kind": "oft"}}', "'oft' is unknown"),
    (OURS + '"adapter": {"kind": ["lora"]}}', "is unknown"),
    (OURS + '"adapter": {"target_modules": [["q_proj"]]}}', "target_modules 1 must be text"),
    (OURS + '"name": 3}', "name must be text, got 3"),
    (OURS + '"rank": 8}', "has no rank"),
    ('{"sidestep_preset": 2}', "version 2"),
    ('{"sidestep_preset": true}', "version True"),
    ('{"lerning_rate": 2}', "lerning_rate"),
    (" " * (presets.MAX_BYTES + 1), "at most 1000000 bytes"),
])
def test_bad_preset_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read(text)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json cannot be read"):
        read(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes('{"name": "M\u00fcller"}'.encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        read(tmp_path / "latin.json")
    (tmp_path / "large.json").write_bytes(b" " * (presets.MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="has 1000001"):
        read(tmp_path / "large.json")


def test_single_settings_change() -> None:
    preset = Preset(name="x", adapter=LoraConfig(rank=8), train=TrainConfig(seed=3))
    changed = preset.with_changes("rank: 16\nlearning_rate: 2e-4\ntarget_modules: q_proj v_proj")
    assert changed == Preset(name="x", adapter=LoraConfig(rank=16, target_modules=("q_proj", "v_proj")),
                             train=TrainConfig(seed=3, learning_rate=2e-4))
    assert preset.with_changes("") == preset
    with pytest.raises(ConfigError, match="no setting factor"):
        preset.with_changes("factor: 8")


@pytest.mark.parametrize("kind", configs().values())
def test_setting_names_are_unique(kind: type[AdapterConfig]) -> None:
    assert {field.name for field in fields(kind)} & {field.name for field in fields(TrainConfig)} == set()


def test_portable_preset_has_no_device() -> None:
    assert Preset(name="x", train=TrainConfig(device="cuda:7", devices="all", seed=2)).portable() == Preset(
        name="x", train=TrainConfig(seed=2))


def write_adapter(path: Path, metadata: dict[str, str] | None) -> Path:
    write_tensors(path, {"weight": torch.ones(1)}, metadata)
    return path


def test_adapter_gives_its_settings(tmp_path: Path) -> None:
    adapter, train = LokrConfig(factor=4), TrainConfig(max_steps=9)
    facts = {"checkpoint": "c0", "adapter": adapter.to_json(), "train": train.to_json(), "steps": 9}
    path = write_adapter(tmp_path / "tapes.safetensors", {METADATA_KEY: json.dumps(facts)})
    assert presets.from_adapter(path) == Preset(name="tapes", description="Settings of tapes.safetensors: steps 9.",
                                                adapter=adapter, train=train)


def test_adapter_gives_its_origin(tmp_path: Path) -> None:
    facts = {"adapter": LoraConfig().to_json(), "train": {}, "steps": 9, "checkpoint_name": "turbo",
             "trigger_word": "tape\n\u202ehiss"}
    path = write_adapter(tmp_path / "a.safetensors", {METADATA_KEY: json.dumps(facts)})
    assert presets.from_adapter(path).description == "Settings of a.safetensors: steps 9, on turbo."
    path = write_adapter(tmp_path / "a.safetensors", {METADATA_KEY: json.dumps(facts | {"trigger_word": "hiss"})})
    assert presets.from_adapter(path).description == "Settings of a.safetensors: steps 9, on turbo, trigger word hiss."


@pytest.mark.parametrize(("metadata", "problem"), [
    (None, "not trained with this Side-Step"),
    ({METADATA_KEY: "{}"}, "unknown"),
    ({METADATA_KEY: '{"adapter": {}, "train": 3}'}, "incomplete"),
    ({METADATA_KEY: '{"adapter": {}, "train": {"zeal": 1}}'}, "no setting zeal"),
    ({METADATA_KEY: "{"}, "The metadata of a.safetensors line 1 is not valid JSON"),
])
def test_adapter_without_settings_is_refused(tmp_path: Path, metadata: dict[str, str] | None, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        presets.from_adapter(write_adapter(tmp_path / "a.safetensors", metadata))


@pytest.mark.parametrize("field", ["name", "description"])
def test_bad_characters_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"{field} of the preset holds the hidden character U\+202E"):
        presets.read(json.dumps({"sidestep_preset": 1, field: "a\u202eb"}))
    assert presets.read(json.dumps({"sidestep_preset": 1, "description": "two\nlines\tand a tab"}))
