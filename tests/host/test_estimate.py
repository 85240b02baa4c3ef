"""Estimates in a real ComfyUI server: measured, shown, kept, compared, and trained on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo.examples import ESTIMATE
from demo.models import model_files, with_models
from demo.server import ComfyUI, Outcome, ServerError
from demo.setup import BASE
from demo.synthetic_model import DEMO_MODEL
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.estimate import result
from sidestep_core.estimate.result import Estimate
from sidestep_core.io.tensors import TensorFile
from tests.host.test_pipeline import facts, node_of, ran, upstream, with_inputs

SECONDS = 1.0
MODULES = 44
"""Modules of the demo's model: four layers of two attentions with four matrices each and an MLP with three."""
CHOSEN = 8
ESTIMATING, TRAINING, CONFIGURING = "SideStepEstimateGradients", "SideStepTrainAdapter", "SideStepConfigureLoRA"
LEGACY = [{"module": "decoder.layers.2.self_attn.v_proj", "sensitivity": 0.5},
          {"module": "decoder.layers.0.cross_attn.q_proj", "sensitivity": 0.2},
          {"module": "decoder.layers.3.mlp.up_proj", "sensitivity": 0.1}]


@pytest.fixture(scope="module")
def short() -> dict[str, Any]:
    """The example workflow with little to do."""
    prompt = with_models(json.loads(ESTIMATE.prompt.read_text(encoding="utf-8")),
                         model_files(BASE / "models" / DEMO_MODEL))
    return with_inputs(prompt, {
        "SideStepPreprocessAudioFolder": {"max_seconds": SECONDS, "dataset_name": "demo"},
        ESTIMATING: {"estimate_batches": 8},
        TRAINING: {"max_steps": 3, "adapter_name": "estimated", "chunk_duration": "whole songs"},
        "SideStepTrainingSettings": {"gradient_accumulation": 1, "heldout_every": 3, "save_every": 100},
    })


@pytest.fixture(scope="module")
def done(server: ComfyUI, short: dict[str, Any]) -> Outcome:
    return ran(server, short)


def estimates(server: ComfyUI) -> Path:
    return server.base / "models" / "sidestep" / "estimates"


def kept(server: ComfyUI) -> Estimate:
    """The estimate of the example workflow as EstimateGradients kept it."""
    found = [result.read(path.read_text(encoding="utf-8"), path.name)
             for path in (estimates(server) / "demo").glob("*.json")]
    [estimate] = [each for each in found if each.settings["target_mlp"]]
    return estimate


def surest(found: Estimate, count: int) -> set[str]:
    """Modules with the highest scores less their standard errors."""
    return {score.module for score in sorted(found.scores, key=lambda score: score.error - score.mean)[:count]}


def trained_modules(path: Path) -> set[str]:
    """Modules that an adapter file changes."""
    names = [re.fullmatch(r"base_model\.model\.(.+)\.lora_A\.weight", name) for name in TensorFile(path).stored]
    return {name[1] for name in names if name is not None}


def image_of(server: ComfyUI, outcome: Outcome, node: str) -> Image.Image:
    [saved] = outcome.outputs[node]["images"]
    return Image.open(server.base / "temp" / saved["subfolder"] / saved["filename"])


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def test_chosen_modules_are_trained(server: ComfyUI, short: dict[str, Any], done: Outcome) -> None:
    found = kept(server)
    assert len(found.scores) == MODULES
    assert found.batches == 8
    best = surest(found, CHOSEN)
    adapter = facts(done, short, TRAINING)
    assert trained_modules(server.place(adapter["adapter"])) == best
    assert adapter["keys_matched"] == adapter["keys_total"] == CHOSEN
    assert adapter["warnings"] == []
    configured = facts(done, short, CONFIGURING)
    assert configured["ranks"] == dict.fromkeys(configured["ranks"], 16)
    assert set(configured["ranks"]) == best
    assert configured["parameters"]["the estimated model"] == adapter["parameters"]
    assert f"the estimate chose {CHOSEN} of {MODULES} modules" in configured["message"]


def test_heat_map_and_table_shown(server: ComfyUI, short: dict[str, Any], done: Outcome) -> None:
    picture = image_of(server, done, node_of(short, "PreviewImage"))
    assert picture.width == 1600
    assert len(picture.convert("RGB").getcolors(1 << 20)) > MODULES
    [text] = done.outputs[node_of(short, "PreviewAny")]["text"]
    lines = text.splitlines()
    assert lines[0].startswith(f"{CHOSEN} of {MODULES} modules")
    found = kept(server)
    assert [line.split()[1] for line in lines if line.startswith("*")] == [
        score.module for score in found.ranked() if score.module in surest(found, CHOSEN)]


def test_progress_and_result_are_shown(server: ComfyUI, short: dict[str, Any], done: Outcome) -> None:
    told = [data for kind, data in done.events if kind == "sidestep.progress"
            and data["node_id"] == node_of(short, ESTIMATING)]
    assert {data["stage"] for data in told} >= {"estimate"}
    assert told[-1]["status"] == "finished"
    assert f"{MODULES} modules measured on 8 samples" in told[-1]["message"]
    listed = server.get_json("/object_info/SideStepLoadEstimate")["SideStepLoadEstimate"]["input"]["required"]
    assert any(choice.startswith("demo/") for choice in listed["estimate_file"][1]["options"])


def test_second_estimate_reads_the_file(server: ComfyUI, short: dict[str, Any], done: Outcome) -> None:
    again = upstream(with_inputs(short, {ESTIMATING: {"top_k": 3}}), ESTIMATING)
    outcome = ran(server, again)
    assert [data for kind, data in outcome.events if kind == "sidestep.progress" and data["stage"] == "estimate"
            and data["status"] == "running"] == []
    found = kept(server)
    assert facts(outcome, again, ESTIMATING)["chosen"] == [
        score.module for score in found.scores if score.module in surest(found, 3)]


def test_stopped_estimate_continues_later(server: ComfyUI, short: dict[str, Any], done: Outcome) -> None:
    prompt = upstream(with_inputs(short, {ESTIMATING: {"estimate_batches": 400, "seed": 3}}), ESTIMATING)
    first: list[int] = []

    def stop_after(step: int, steps: list[int]) -> Any:
        def listen(event: tuple[str, dict[str, Any]]) -> None:
            kind, data = event
            if kind == "sidestep.progress" and data["stage"] == "estimate" and data["status"] == "running":
                if data["step"] >= step and not steps:
                    server.interrupt()
                    steps.append(data["step"])
        return listen

    outcome = server.wait(server.submit(prompt), 300, stop_after(4, first))
    assert outcome.status == "interrupted"
    ended = [data["message"] for kind, data in outcome.events if kind == "sidestep.progress"
             and data["status"] == "cancelled"]
    samples = int(re.search(r"Stopped after (\d+)", ended[0])[1])
    second: list[int] = []
    assert server.wait(server.submit(prompt), 300, stop_after(1, second)).status == "interrupted"
    assert second[0] > samples >= 4


def test_choice_needs_an_estimate(server: ComfyUI, short: dict[str, Any]) -> None:
    configure = node(CONFIGURING, rank=8, alpha=8.0, dropout=0.0, attention_type="self", choose="percentile", top_k=1)
    save = node("SideStepSavePreset", name="plain", description="", overwrite=True, adapter_config=["c", 0])
    ran(server, {"c": configure, "s": save})
    text = (server.base / "output" / "sidestep" / "presets" / "plain.json").read_text(encoding="utf-8")
    assert json.loads(text)["adapter"] == LoraConfig(rank=8, alpha=8.0, dropout=0.0, attention_type="self").to_json()


@pytest.mark.parametrize(("kind", "inputs", "module"), [
    ("SideStepConfigureLoKR", {"linear_dim": 4, "alpha": 4.0, "factor": 4}, "layers.2.self_attn.v_proj"),
    ("SideStepConfigureLoHA", {"rank": 4, "alpha": 4.0}, "layers.2.self_attn.v_proj"),
])
def test_every_kind_takes_estimates(server: ComfyUI, kind: str, inputs: dict[str, Any], module: str) -> None:
    prompt = {"e": node("SideStepLoadEstimate", estimate_file="none", json=json.dumps(LEGACY)),
              "c": node(kind, dropout=0.0, attention_type="both", estimate=["e", 0], top_k=1, **inputs),
              "s": node("SideStepSavePreset", name="kind", description="", overwrite=True, adapter_config=["c", 0])}
    outcome = ran(server, prompt)
    [shown] = outcome.outputs["c"]["sidestep"]
    assert list(shown["ranks"]) == [module]
    assert "the estimate chose 1 of 2 modules: 1 self-attention" in shown["message"]
    assert "leaves out 1 of the measured modules" in shown["message"]


def test_other_songs_estimate_only_warns(server: ComfyUI, short: dict[str, Any], done: Outcome) -> None:
    found = kept(server)
    other = json.dumps(found.to_json() | {"dataset": "another", "checkpoint": "different"})
    loading = {"more": node("SideStepLoadEstimate", estimate_file="none", json=other)}
    prompt = upstream(with_inputs(short | loading, {CONFIGURING: {"estimate": ["more", 0]},
                                                    TRAINING: {"adapter_name": "of other songs"}}), TRAINING)
    outcome = ran(server, prompt)
    warnings = facts(outcome, prompt, TRAINING)["warnings"]
    assert len(warnings) == 2
    assert "another checkpoint than this one" in warnings[0]
    assert "another dataset than this one" in warnings[1]
    finished = [data["message"] for kind, data in outcome.events if kind == "sidestep.progress"
                and data["status"] == "finished" and data["node_id"] == node_of(prompt, TRAINING)]
    assert all(warning in finished[-1] for warning in warnings)
    assert all(warning in server.log.read_text(encoding="utf-8", errors="replace") for warning in warnings)


def test_training_can_estimate_first(server: ComfyUI, short: dict[str, Any], done: Outcome) -> None:
    prompt = with_inputs(short, {CONFIGURING: {"attention_type": "self", "target_mlp": False},
                                 TRAINING: {"auto_estimate": True, "top_k": 5, "adapter_name": "by itself"}})
    del prompt[node_of(prompt, CONFIGURING)]["inputs"]["estimate"]
    prompt = upstream(prompt, TRAINING)
    outcome = ran(server, prompt)
    adapter = facts(outcome, prompt, TRAINING)
    modules = trained_modules(server.place(adapter["adapter"]))
    assert len(modules) == 5
    assert all(".self_attn." in module for module in modules)
    again = ran(server, with_inputs(prompt, {TRAINING: {"save_every": 101}}))
    assert facts(again, prompt, TRAINING)["adapter"] == adapter["adapter"]


def test_two_choices_are_refused(server: ComfyUI, short: dict[str, Any], done: Outcome) -> None:
    prompt = upstream(with_inputs(short, {TRAINING: {"auto_estimate": True}}), TRAINING)
    outcome = server.run(prompt, timeout=300)
    assert outcome.status == "error"
    assert "Switch auto_estimate off" in outcome.exception_message


def test_saved_estimate_loads_and_compares(server: ComfyUI, short: dict[str, Any], done: Outcome) -> None:
    prompt = upstream(short, ESTIMATING)
    number = node_of(prompt, ESTIMATING)
    prompt["save"] = node("SideStepSaveEstimate", estimate=[number, 0], name="mine", overwrite=False)
    ran(server, prompt)
    path = estimates(server) / "mine.json"
    assert result.read(path.read_text(encoding="utf-8"), "mine") == kept(server)
    prompt["load"] = node("SideStepLoadEstimate", estimate_file="mine.json")
    prompt["legacy"] = node("SideStepLoadEstimate", estimate_file="none", json=json.dumps(LEGACY))
    prompt["compare"] = node("SideStepCompareEstimates", estimate_1=[number, 0], estimate_2=["load", 0],
                             estimate_3=["legacy", 0], top_k=3)
    prompt["picture"] = node("PreviewImage", images=["compare", 0])
    prompt["table"] = node("PreviewAny", source=["compare", 1])
    outcome = ran(server, prompt)
    assert image_of(server, outcome, "picture").width == 3200
    [text] = outcome.outputs["table"]["text"]
    rows = [line.split() for line in text.splitlines() if line.startswith("Estimate 1 ")]
    assert rows[-2][2:4] == ["-", "1.00"]
    assert rows[-1][2:4] == ["-", "1.00"]
    assert "Estimate 1 and Estimate 2 were made with the same dataset." in text


def test_existing_estimate_is_kept(server: ComfyUI) -> None:
    def save(score: float, *, overwrite: bool) -> dict[str, Any]:
        return {"e": node("SideStepLoadEstimate", estimate_file="none",
                          json=json.dumps([{"module": "layers.0.mlp.up_proj", "score": score}])),
                "s": node("SideStepSaveEstimate", estimate=["e", 0], name="kept", overwrite=overwrite)}

    ran(server, save(1.0, overwrite=False))
    ran(server, save(1.0, overwrite=False))
    refused = server.run(save(2.0, overwrite=False), timeout=60)
    assert refused.status == "error"
    assert "switch overwrite on" in refused.exception_message
    path = estimates(server) / "kept.json"
    assert result.read(path.read_text(encoding="utf-8"), "kept").scores[0].mean == 1.0
    ran(server, save(2.0, overwrite=True))
    assert result.read(path.read_text(encoding="utf-8"), "kept").scores[0].mean == 2.0


@pytest.mark.parametrize("name", ["../../escape", "..\\escape", "con", "", "a/b"])
def test_escaping_name_is_refused(server: ComfyUI, name: str) -> None:
    outcome = server.run({"e": node("SideStepLoadEstimate", estimate_file="none", json=json.dumps(LEGACY)),
                          "s": node("SideStepSaveEstimate", estimate=["e", 0], name=name, overwrite=True)}, timeout=60)
    assert outcome.status == "error"
    assert "name" in outcome.exception_message
    assert not list(server.base.rglob("escape*"))


@pytest.mark.parametrize("choice", ["../../output/secret.json", "no such.json"])
def test_unlisted_file_is_refused(server: ComfyUI, choice: str) -> None:
    (server.base / "output").mkdir(exist_ok=True)
    (server.base / "output" / "secret.json").write_text(json.dumps(LEGACY), encoding="utf-8")
    with pytest.raises(ServerError, match="not in"):
        server.run({"e": node("SideStepLoadEstimate", estimate_file=choice),
                    "s": node("SideStepSaveEstimate", estimate=["e", 0], name="stolen", overwrite=True)}, timeout=60)


def test_empty_choice_is_an_error(server: ComfyUI) -> None:
    prompt = {"e": node("SideStepLoadEstimate", estimate_file="none"),
              "s": node("SideStepSaveEstimate", estimate=["e", 0], name="none", overwrite=True)}
    outcome = server.run(prompt, timeout=60)
    assert outcome.status == "error"
    assert "paste the text of a file into json" in outcome.exception_message
