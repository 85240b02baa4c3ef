"""Presets in a real ComfyUI server: loaded, changed, imported, saved, and never written over unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from demo.server import ComfyUI, HttpError, Outcome, ServerError
from sidestep_core.adapters.file import METADATA_KEY
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lokr import LokrConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.io.tensors import write_tensors
from sidestep_core.presets import preset as presets
from sidestep_core.presets.preset import Preset
from sidestep_core.presets.text import WORDS, parse_setting
from sidestep_core.training.config import TrainConfig

LOAD, CONFIGURE, SAVE = "load", "configure", "save"


def save(name: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": "SideStepSavePreset",
            "inputs": {"name": name, "description": "", "overwrite": False, **inputs}}


def loaded(name: str, preset: str = "recommended", *, overwrite: bool = False, **inputs: Any) -> dict[str, Any]:
    """A prompt that loads a preset and saves it under another name."""
    return {LOAD: {"class_type": "SideStepLoadPreset", "inputs": {"preset": preset, **inputs}},
            SAVE: save(name, adapter_config=[LOAD, 0], settings=[LOAD, 1], description=[LOAD, 2],
                       overwrite=overwrite)}


def ran(server: ComfyUI, prompt: dict[str, Any]) -> Outcome:
    outcome = server.run(prompt, timeout=120)
    assert outcome.status == "success", outcome.exception_message
    return outcome


def saved(server: ComfyUI, name: str) -> Preset:
    return presets.read(server.base / "output" / "sidestep" / "presets" / f"{name}.json").preset


def test_list_has_built_in_presets(server: ComfyUI) -> None:
    _, options = server.get_json("/object_info/SideStepLoadPreset")["SideStepLoadPreset"]["input"]["required"]["preset"]
    assert options["options"][:len(presets.BUILT_IN)] == list(presets.BUILT_IN)
    assert options["default"] == "recommended"


@pytest.mark.parametrize("name", presets.BUILT_IN)
def test_built_in_preset_saves_unchanged(server: ComfyUI, name: str) -> None:
    ran(server, loaded(f"copy of {name}", name))
    original, copy = presets.load_built_in(name), saved(server, f"copy of {name}")
    assert (copy.adapter, copy.train) == (original.adapter, original.train)
    assert copy.description == original.description


def test_changes_override_the_preset(server: ComfyUI) -> None:
    ran(server, loaded("changed", changes="rank: 8\nmax_steps: 5\nepochs: 0\ndevice: cuda:3"))
    found, original = saved(server, "changed"), presets.load_built_in("recommended")
    assert found.adapter.to_json() == original.adapter.to_json() | {"rank": 8}
    # Where it runs stays here.
    assert found.train.to_json() == original.train.to_json() | {"max_steps": 5, "epochs": 0}


def test_changed_preset_is_read_again(server: ComfyUI) -> None:
    ran(server, loaded("mine", changes="rank: 8"))
    info = server.get_json("/object_info/SideStepLoadPreset")["SideStepLoadPreset"]
    assert "my presets/mine" in info["input"]["required"]["preset"][1]["options"]
    ran(server, loaded("mine again", "my presets/mine"))
    assert saved(server, "mine again").adapter == LoraConfig(rank=8)
    path = server.base / "output" / "sidestep" / "presets" / "mine.json"
    path.write_text(Preset(name="mine", adapter=LoraConfig(rank=16)).to_text(), encoding="utf-8")
    ran(server, loaded("mine again", "my presets/mine", overwrite=True))
    assert saved(server, "mine again").adapter == LoraConfig(rank=16)


def write_adapter(server: ComfyUI, name: str, facts: dict[str, Any] | None) -> None:
    metadata = None if facts is None else {METADATA_KEY: json.dumps(facts)}
    write_tensors(server.base / "models" / "loras" / name, {"weight": torch.ones(1)}, metadata)


def test_adapter_gives_its_settings(server: ComfyUI) -> None:
    adapter, train = LokrConfig(factor=4), TrainConfig(max_steps=9, device="cpu")
    write_adapter(server, "shared.safetensors", {"adapter": adapter.to_json(), "train": train.to_json(), "steps": 9})
    write_adapter(server, "foreign.safetensors", None)
    info = server.get_json("/object_info/SideStepLoadPreset")["SideStepLoadPreset"]
    options = info["input"]["required"]["preset"][1]["options"]
    assert "adapters/shared.safetensors" in options
    assert "adapters/foreign.safetensors" not in options
    ran(server, loaded("as shared", "adapters/shared.safetensors", changes="seed: 7"))
    found = saved(server, "as shared")
    assert (found.adapter, found.train) == (adapter, TrainConfig(max_steps=9, seed=7))
    shown = server.post_json("/sidestep/preset", {"preset": "adapters/shared.safetensors", "changes": "", "json": ""})
    assert shown["settings"]["max_steps"] == 9
    write_adapter(server, "shared.safetensors", {"adapter": adapter.to_json(), "train": {}, "steps": 10})
    ran(server, loaded("as shared", "adapters/shared.safetensors", overwrite=True))
    assert saved(server, "as shared").train == TrainConfig()


def test_foreign_preset_imports_with_notes(server: ComfyUI) -> None:
    text = json.dumps({"lora_r": 8, "lora_alpha": 4, "torch_compile": True, "max_latent_length": 750})
    outcome = ran(server, loaded("imported", json=text))
    assert saved(server, "imported").adapter == LoraConfig(rank=8, alpha=4)
    assert saved(server, "imported").train == TrainConfig(chunk_duration=30.0)
    [shown] = outcome.outputs[LOAD]["sidestep"]
    assert shown["notes"] == ["torch_compile: not used, it depends on the computer; compile is off until it is set."]
    assert "torch_compile" in saved(server, "imported").description
    assert "torch_compile: not used" in server.log.read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize(("inputs", "said"), [
    ({"changes": "lerning_rate: 1"}, "Did you mean learning_rate"),
    ({"changes": "learning_rate: fast"}, "learning_rate must be a number, got 'fast'"),
    ({"json": '{"zeal": 1}'}, "zeal"),
    ({"json": "{"}, "not the JSON"),
])
def test_errors_name_the_cause(server: ComfyUI, inputs: dict[str, str], said: str) -> None:
    outcome = server.run(loaded("wrong", **inputs), timeout=120)
    assert outcome.status == "error"
    assert said in outcome.exception_message
    assert not (server.base / "output" / "sidestep" / "presets" / "wrong.json").exists()


def test_page_gets_preset_values(server: ComfyUI) -> None:
    asked = {"preset": "recommended", "changes": "max_steps: 77"}
    settings = server.post_json("/sidestep/preset", asked)["settings"]
    words = {name: settings[name] for name in WORDS if name in settings}
    assert {name: parse_setting(TrainConfig, name, word) for name, word in words.items()}.items() <= (
        presets.load_built_in("recommended").train.to_json().items())
    assert settings == presets.load_built_in("recommended").train.to_json() | {"max_steps": 77} | words
    assert (settings["preview_every"], settings["heldout_songs"]) == ("never", "automatic")


@pytest.mark.parametrize(("asked", "said"), [
    ({"preset": "recommended", "changes": "max_steps: many"}, "max_steps must be a whole number"),
    ({"preset": "my presets/../../secret"}, "There is no preset"), ({"preset": 1}, "must be text"), ([], "object")])
def test_page_gets_preset_errors(server: ComfyUI, asked: object, said: str) -> None:
    with pytest.raises(HttpError, match=said) as refused:
        server.post_json("/sidestep/preset", asked)
    assert refused.value.code in (400, 422)
    assert str(server.base) not in str(refused.value)


@pytest.mark.parametrize("choice", ["my presets/none", "my presets/../../secret", "../recommended"])
def test_unlisted_preset_is_refused(server: ComfyUI, choice: str) -> None:
    (server.base / "output" / "secret.json").write_text(Preset(name="secret").to_text(), encoding="utf-8")
    with pytest.raises(ServerError, match="not in"):
        server.run(loaded("stolen", choice), timeout=120)


def test_existing_preset_is_kept(server: ComfyUI) -> None:
    ran(server, loaded("kept", changes="rank: 8"))
    ran(server, loaded("kept", changes="rank: 8"))
    refused = server.run(loaded("kept", changes="rank: 16"), timeout=120)
    assert refused.status == "error"
    assert "switch overwrite on" in refused.exception_message
    assert saved(server, "kept").adapter == LoraConfig(rank=8)
    ran(server, loaded("kept", changes="rank: 16", overwrite=True))
    assert saved(server, "kept").adapter == LoraConfig(rank=16)


def test_deleted_preset_is_written_again(server: ComfyUI) -> None:
    ran(server, loaded("deleted"))
    (server.base / "output" / "sidestep" / "presets" / "deleted.json").unlink()
    ran(server, loaded("deleted"))
    assert saved(server, "deleted").name == "deleted"


@pytest.mark.parametrize("name", ["../../escape", "..\\escape", "con", "", "a/b"])
def test_escaping_name_is_refused(server: ComfyUI, name: str) -> None:
    outcome = server.run(loaded(name), timeout=120)
    assert outcome.status == "error"
    assert "name" in outcome.exception_message
    assert not list(server.base.rglob("escape*"))


def test_empty_preset_is_refused(server: ComfyUI) -> None:
    outcome = server.run({SAVE: save("nothing")}, timeout=120)
    assert outcome.status == "error"
    assert "Nothing is connected" in outcome.exception_message


@pytest.mark.parametrize(("node", "inputs", "config", "modules"), [
    ("SideStepConfigureLoRA", {"rank": 8, "alpha": 8.0, "dropout": 0.0, "attention_type": "self"},
     LoraConfig(rank=8, alpha=8.0, dropout=0.0, attention_type="self"), {"2B": 96, "XL": 128}),
    ("SideStepConfigureLoRA", {"rank": 8, "alpha": 8.0, "dropout": 0.0, "attention_type": "both", "rslora": True,
                               "module_ranks": "layers.0.*=4\n layers.1.self_attn.q_proj=2\n"},
     LoraConfig(rank=8, alpha=8.0, dropout=0.0, rslora=True,
                module_ranks=("layers.0.*=4", "layers.1.self_attn.q_proj=2")), {"2B": 192, "XL": 256}),
    ("SideStepConfigureLoRA", {"rank": 8, "alpha": 8.0, "dropout": 0.0, "attention_type": "both",
                               "module_ranks": "layers.31.*=4"},
     LoraConfig(rank=8, alpha=8.0, dropout=0.0, module_ranks=("layers.31.*=4",)), {"XL": 256}),
    ("SideStepConfigureLoKR", {"linear_dim": 16, "alpha": 8.0, "factor": 8, "dropout": 0.0, "attention_type": "both",
                               "weight_decompose": True, "target_modules": "q_proj, v_proj"},
     LokrConfig(linear_dim=16, alpha=8.0, factor=8, dropout=0.0, weight_decompose=True,
                target_modules=("q_proj", "v_proj")), {"2B": 96, "XL": 128}),
    ("SideStepConfigureLoHA", {"rank": 4, "alpha": 4.0, "dropout": 0.0, "attention_type": "cross"},
     LohaConfig(rank=4, alpha=4.0, dropout=0.0, attention_type="cross"), {"2B": 96, "XL": 128}),
])
def test_adapter_config_is_saved(server: ComfyUI, tmp_path: Path, node: str, inputs: dict[str, Any], config: LoraConfig,
                                 modules: dict[str, int]) -> None:
    outcome = ran(server, {CONFIGURE: {"class_type": node, "inputs": inputs},
                           SAVE: save("configured", adapter_config=[CONFIGURE, 0], overwrite=True)})
    assert saved(server, "configured") == Preset(name="configured", adapter=config)
    [shown] = outcome.outputs[CONFIGURE]["sidestep"]
    assert shown["modules"] == modules
    assert shown["kind"] == config.kind
    assert "counted on your model when a training with it begins" in shown["message"]
