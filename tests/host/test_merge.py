"""MergeAdapter in the real host: the merged model is the patched one, opens everywhere, and nothing is overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks import effect
from benchmarks._layouts import ROWS
from benchmarks._writers import Made
from demo.models import model_files
from demo.server import ComfyUI, Outcome
from demo.setup import BASE
from demo.synthetic_model import DEMO_MODEL
from sidestep_core.io.tensors import read_metadata
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from tests.host.pack import pack_module

STRENGTHS = (0.7, -0.4)


@pytest.fixture(scope="module")
def made(comfy: ModuleType, checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    """A LoRA and a DoRA for the demo's model."""
    decoder = checkpoint.model_weights().under("decoder.")
    weights = {name.removesuffix(".weight"): decoder.tensor(name, torch.float32, torch.device("cpu"))
               for name in decoder.names if "_attn." in name and name.endswith("_proj.weight")}
    folder = tmp_path_factory.mktemp("adapters")
    return [ROWS[name](folder / name[:1], weights) for name in ("C  Side-Step native", "R  DoRA, PEFT")]


def shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Share of all parameters of the model."""
    weights = checkpoint.model_weights()
    return {name: weights.shape(name) for name in weights.names}


@pytest.fixture(scope="module")
def host(comfy: ModuleType, checkpoint: Checkpoint) -> Any:
    return comfy.sd.load_diffusion_model(str(checkpoint.model[0]), model_options={"dtype": torch.float32})


def test_merged_model_equals_patched(comfy: ModuleType, host: Any, checkpoint: Checkpoint, made: list[Made],
                                     tmp_path: Path) -> None:
    adapters = [(one.path, strength) for one, strength in zip(made, STRENGTHS, strict=True)]
    patch, unused = pack_module("nodes.host.patches").combine(adapters, 0.0, shapes(checkpoint))
    assert unused == []
    found = pack_module("sidestep_core.adapters.merge").merge(checkpoint, patch, tmp_path / "new_turbo.safetensors", {})
    patched = host
    for path, strength in adapters:
        patched, *_ = pack_module("nodes.host.models").patch(patched, path, strength)
    expected = effect.applied(patched)
    merged = comfy.sd.load_diffusion_model(str(found), model_options={"dtype": torch.float32})
    after, base = effect.decoder_weights(merged), effect.decoder_weights(host)
    assert after.keys() == expected.keys()
    for name, weight in after.items():
        assert weight.equal(expected[name].to(torch.bfloat16).float())
        assert weight.equal(base[name]) == (name not in made[0].truth)


def test_other_width_is_not_merged(comfy: ModuleType, checkpoint: Checkpoint, made: list[Made]) -> None:
    with pytest.raises(pack_module("sidestep_core.errors").AdapterError, match="another size"):
        pack_module("nodes.host.patches").combine([(made[0].path, 1.0)], 0.0, dict.fromkeys(shapes(checkpoint), (7, 7)))


def test_strength_zero_changes_nothing(comfy: ModuleType, checkpoint: Checkpoint, made: list[Made]) -> None:
    patch, _ = pack_module("nodes.host.patches").combine([(made[0].path, 0.0)], 0.0, shapes(checkpoint))
    assert patch.parameters == frozenset()


@pytest.fixture
def prompt(server: ComfyUI, made: list[Made]) -> dict[str, Any]:
    """Load, merge."""
    loras = server.base / "models" / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    (loras / "merged in.safetensors").write_bytes(made[0].path.read_bytes())
    files = model_files(BASE / "models" / DEMO_MODEL)
    return {
        "1": {"class_type": "SideStepLoadACEStepCheckpoint", "inputs": {
            "model": f"diffusion_models/{files.model}", "text_encoder": files.text_encoder, "vae": files.vae,
            "variant": "automatic"}},
        "2": {"class_type": "SideStepLoadAdapter", "inputs": {"adapter_file": "merged in.safetensors"}},
        "3": {"class_type": "SideStepMergeAdapter", "inputs": {
            "checkpoint": ["1", 0], "adapter": ["2", 0], "strength": 0.5, "model_name": "merge test"}},
    }


def merged_file(server: ComfyUI, outcome: Outcome) -> Path:
    assert outcome.status == "success", outcome.exception_message
    return server.place(outcome.outputs["3"]["sidestep"][0]["model"])


def test_node_writes_model_once(server: ComfyUI, prompt: dict[str, Any], checkpoint: Checkpoint) -> None:
    made_files = []
    try:
        made_files.append(merged_file(server, server.run(prompt)))
        first = made_files[0]
        assert first.name == "merge test_turbo.safetensors"
        [facts] = json.loads(read_metadata(first)["sidestep_merged"])
        assert (facts["checkpoint"], facts["variant"]) == (checkpoint.fingerprint, "turbo")
        assert facts["adapters"][0] | {"content": ""} == {"file": "merged in.safetensors", "content": "",
                                                          "strength": 0.5}
        again = open_checkpoint(first, text_encoder=checkpoint.text_encoder[0], vae=checkpoint.vae)
        assert again.variant == "turbo"
        assert again.fingerprint != checkpoint.fingerprint
        written = first.stat().st_mtime_ns
        prompt["3"]["inputs"] |= {"model_name": " merge test"}
        assert merged_file(server, server.run(prompt)) == first
        assert first.stat().st_mtime_ns == written
        info = server.get_json("/object_info/SideStepLoadACEStepCheckpoint")["SideStepLoadACEStepCheckpoint"]
        assert f'"{first.name}"' in json.dumps(info["input"]["required"]["model"])
        prompt["3"]["inputs"] |= {"strength": 0.25}
        made_files.append(merged_file(server, server.run(prompt)))
        assert made_files[1].name == "merge test_turbo-2.safetensors"
        assert first.stat().st_mtime_ns == written
    finally:
        for file in made_files:
            file.unlink()


@pytest.mark.parametrize(("inputs", "message"), [
    ({"model_name": "../escape"}, "cannot be a file name"),
    ({"model_name": "base mix"}, "means base, but the model is turbo"),
    ({"strength": 0.0}, "every strength is 0"),
    ({"alpha": 3.0}, "already has its own alpha"),
])
def test_node_refuses_bad_input(server: ComfyUI, prompt: dict[str, Any], inputs: dict[str, Any], message: str) -> None:
    prompt["3"]["inputs"] |= inputs
    outcome = server.run(prompt)
    assert outcome.status == "error"
    assert message in str(outcome.exception_message)
