"""Unused parts of an adapter file are named on the node that leaves them out, and nothing is if all is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks._layouts import ROWS
from demo.models import model_files
from demo.server import ComfyUI, Outcome
from demo.setup import BASE
from demo.synthetic_model import DEMO_MODEL
from sidestep_core.io.atomic import write_json
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model.checkpoint import Checkpoint

NOBODYS = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight"
Q = "layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def loras(server: ComfyUI, checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """whole.safetensors, and in a folder partial.safetensors with the settings of another adapter."""
    decoder = checkpoint.model_weights().under("decoder.")
    weights = {name.removesuffix(".weight"): decoder.tensor(name, torch.float32, torch.device("cpu"))
               for name in decoder.names if "_attn." in name and name.endswith("_proj.weight")}
    made = ROWS["C  Side-Step native"](tmp_path_factory.mktemp("adapter"), weights)
    folder = server.base / "models" / "loras"
    tensors = read_tensors(made.path)
    write_tensors(folder / "whole.safetensors", tensors)
    gone = {name.replace(Q, "layers.77.self_attn.q_proj"): tensor for name, tensor in tensors.items()}
    write_tensors(folder / "deep" / "partial.safetensors", gone | {NOBODYS: torch.ones(2, 2)})
    write_json(folder / "deep" / "adapter_config.json", {"peft_type": "LORA", "r": 77, "lora_alpha": 7})
    return folder


def run(server: ComfyUI, file: str, model_name: str = "partial test") -> Outcome:
    """Load, apply and merge an adapter."""
    files = model_files(BASE / "models" / DEMO_MODEL)
    outcome = server.run({
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": files.model, "weight_dtype": "default"}},
        "2": {"class_type": "SideStepLoadAdapter", "inputs": {"adapter_file": file}},
        "3": {"class_type": "SideStepApplyAdapter", "inputs": {
            "model": ["1", 0], "adapter": ["2", 0], "strength": 1.0}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
        "5": {"class_type": "SideStepLoadACEStepCheckpoint", "inputs": {
            "model": f"diffusion_models/{files.model}", "text_encoder": files.text_encoder, "vae": files.vae,
            "variant": "automatic"}},
        "6": {"class_type": "SideStepMergeAdapter", "inputs": {
            "checkpoint": ["5", 0], "adapter": ["2", 0], "strength": 0.5, "model_name": model_name}},
    })
    assert outcome.status == "success", outcome.exception_message
    return outcome


def shown(server: ComfyUI, outcome: Outcome, node: str) -> dict[str, Any]:
    """Output of a node: for a page that is open, and to one that is opened later."""
    [facts] = outcome.outputs[node]["sidestep"]
    assert server.get_json(f"/sidestep/nodes/{node}/history")["output"] == facts
    return dict(facts)


def test_nodes_show_unused_parts(server: ComfyUI, loras: Path) -> None:
    outcome = run(server, "deep/partial.safetensors")
    merged = server.place(outcome.outputs["6"]["sidestep"][0]["model"])
    try:
        load, apply, merge = (shown(server, outcome, node) for node in "236")
        for facts in (load, apply, merge):
            assert facts["warning"]
            assert "adapter_config.json in the folder of partial.safetensors is of another adapter" in facts["message"]
        assert f"are not used: {NOBODYS}." in load["message"]
        assert f"{apply['matched']} of {apply['matched'] + 2} modules matched. " in apply["message"]
        assert "layers.77.self_attn.q_proj" in apply["message"]
        assert merge["message"].startswith(f"{merged.name} is in your model list. ")
        assert (f"merged: {apply['matched']} of {apply['matched'] + 2} modules of partial.safetensors. "
                "2 not used: layers.77.self_attn.q_proj") in merge["message"]
        assert str(server.base) not in load["message"] + apply["message"] + merge["message"]
        # The same file under the same name: nothing is written, and it is still a partial one.
        again = shown(server, run(server, "deep/partial.safetensors", " partial test"), "6")
        assert again["message"] == merge["message"]
    finally:
        merged.unlink()


def test_whole_adapter_gives_no_warning(server: ComfyUI, loras: Path) -> None:
    outcome = run(server, "whole.safetensors")
    merged = server.place(outcome.outputs["6"]["sidestep"][0]["model"])
    try:
        load, apply, merge = (shown(server, outcome, node) for node in "236")
        assert "message" not in load
        assert "message" not in apply
        assert merge["message"] == f"{merged.name} is in your model list."
        assert not merge["warning"]
    finally:
        merged.unlink()
