"""The nodes in a real ComfyUI server: train and generate, touch nothing else, stop and go on, say what is wrong."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from demo.server import ComfyUI, Outcome, Prompt
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.io.tensors import TensorFile, read_tensors
from sidestep_core.presets import preset
from sidestep_core.presets.text import parse_setting
from sidestep_core.training import metrics
from sidestep_core.training.config import TrainConfig
from tests.tolerance import EFFECT, SAME_LOSS

SECONDS = 1.0
SNAPSHOT = Path(__file__).with_name("node_interface.json")


def node_of(prompt: Prompt, class_type: str) -> str:
    return next(node for node, content in prompt.items() if content["class_type"] == class_type)


def with_inputs(prompt: Prompt, changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A copy with other inputs, by node class."""
    changed = copy.deepcopy(dict(prompt))
    for class_type, inputs in changes.items():
        changed[node_of(changed, class_type)]["inputs"] |= inputs
    return changed


def upstream(prompt: Prompt, class_type: str) -> dict[str, Any]:
    """A node with everything it needs."""
    needed, found = [node_of(prompt, class_type)], {}
    while needed:
        node = needed.pop()
        found[node] = prompt[node]
        needed += [value[0] for value in prompt[node]["inputs"].values() if isinstance(value, list)]
    return found


@pytest.fixture(scope="module")
def short(prompt: Prompt) -> dict[str, Any]:
    """The demo's workflow with little to do."""
    return with_inputs(prompt, {
        "SideStepPreprocessAudioFolder": {"max_seconds": SECONDS, "dataset_name": "demo"},
        "SideStepTrainAdapter": {"max_steps": 6, "adapter_name": "pipeline"},
        "SideStepTrainingSettings": {"gradient_accumulation": 1, "heldout_every": 3, "save_every": 100},
        "TextEncodeAceStepAudio1.5": {"duration": SECONDS},
        "EmptyAceStep1.5LatentAudio": {"seconds": SECONDS},
        "KSampler": {"steps": 2},
    })


@pytest.fixture(scope="module")
def generate_only(short: dict[str, Any]) -> dict[str, Any]:
    """Generation without the adapter and without training."""
    loader = node_of(short, "UNETLoader")
    rewired = with_inputs(short, {"ModelSamplingAuraFlow": {"model": [loader, 0]}})
    return upstream(rewired, "SaveAudio")


def ran(server: ComfyUI, prompt: Prompt) -> Outcome:
    outcome = server.run(prompt, timeout=580)
    assert outcome.status == "success", outcome.exception_message
    return outcome


def audio_digest(server: ComfyUI, outcome: Outcome) -> str:
    """Hash of the samples, not of the file: the host writes the whole workflow into the file's tags."""
    from sidestep_core.audio.decode import decode

    [saved] = [audio for output in outcome.outputs.values() for audio in output.get("audio", [])]
    path = server.base / "output" / saved["subfolder"] / saved["filename"]
    return hashlib.sha256(decode(path).numpy().tobytes()).hexdigest()


def facts(outcome: Outcome, prompt: Prompt, class_type: str) -> dict[str, Any]:
    [found] = outcome.outputs[node_of(prompt, class_type)]["sidestep"]
    return found


@pytest.fixture(scope="module")
def untouched(server: ComfyUI, generate_only: dict[str, Any]) -> str:
    """Output of the model before any training."""
    return audio_digest(server, ran(server, generate_only))


@pytest.fixture(scope="module")
def trained(server: ComfyUI, short: dict[str, Any], untouched: str) -> Outcome:
    return ran(server, short)


@pytest.fixture(scope="module")
def repeated(server: ComfyUI, short: dict[str, Any], trained: Outcome) -> Outcome:
    """The same workflow again."""
    return ran(server, short)


def test_one_graph_trains_and_generates(server: ComfyUI, short: dict[str, Any], trained: Outcome,
                                        untouched: str) -> None:
    training = facts(trained, short, "SideStepTrainAdapter")
    assert training["keys_matched"] == training["keys_total"] == 32
    assert training["effect"] == pytest.approx(1, abs=EFFECT)
    assert training["steps"] == 6
    assert training["kind"] == "lora"
    file = TensorFile(server.place(training["adapter"]))
    assert training["parameters"] == sum(file.tensor(name).numel() for name in file.stored if ".lora_" in name)
    assert training["heldout_first"] != training["heldout_last"]
    assert training["measured_on"] == "held_out"
    assert server.place(training["adapter"]).parent == server.base / "models" / "loras"
    assert str(server.base) not in json.dumps(trained.outputs)
    applied = facts(trained, short, "SideStepApplyAdapter")
    assert applied["matched"] == applied["total"] == 32
    assert audio_digest(server, trained) != untouched


def test_training_leaves_base_model_unchanged(server: ComfyUI, generate_only: dict[str, Any], trained: Outcome,
                                              untouched: str) -> None:
    again = with_inputs(generate_only, {"SaveAudio": {"filename_prefix": "audio/again"}})
    assert audio_digest(server, ran(server, again)) == untouched


def test_finished_training_is_not_repeated(repeated: Outcome) -> None:
    steps = [data for kind, data in repeated.events if kind == "sidestep.progress" and data["metrics"].get("loss")]
    assert steps == []


def test_repeated_workflow_is_cached(server: ComfyUI, short: dict[str, Any], repeated: Outcome) -> None:
    again = ran(server, short)
    cached = [node for kind, data in again.messages if kind == "execution_cached" for node in data["nodes"]]
    assert sorted(cached) == sorted(short)


def test_loaders_model_continues_same_run(server: ComfyUI, short: dict[str, Any], trained: Outcome) -> None:
    loaded = [node_of(short, "UNETLoader"), 0]
    one = with_inputs(short, {name: {"checkpoint": loaded} for name in ("SideStepPreprocessAudioFolder",
                                                                        "SideStepTrainAdapter")})
    one = upstream(one, "SideStepTrainAdapter")
    one |= {"30": {"class_type": "PreviewAny", "inputs": {"source": [node_of(one, "SideStepTrainAdapter"), 1]}}}
    again = ran(server, one)
    steps = [data for kind, data in again.events if kind == "sidestep.progress" and data["metrics"].get("loss")]
    assert steps == []
    assert again.outputs["30"]["text"] == ["sidestepdemo"]


def test_adapted_model_is_refused(server: ComfyUI, short: dict[str, Any], trained: Outcome) -> None:
    adapted = [node_of(short, "SideStepApplyAdapter"), 0]
    applied = upstream(short, "SideStepApplyAdapter")
    outcome = server.run({**applied, "31": {"class_type": "SideStepPreprocessAudioFolder", "inputs": {
        **short[node_of(short, "SideStepPreprocessAudioFolder")]["inputs"], "checkpoint": adapted}}}, timeout=580)
    assert outcome.status == "error"
    assert "has an adapter or another change on it" in outcome.exception_message


def test_lora_list_has_new_adapter(server: ComfyUI, trained: Outcome) -> None:
    info = server.get_json("/object_info/LoraLoaderModelOnly")["LoraLoaderModelOnly"]
    assert '"pipeline.safetensors"' in json.dumps(info["input"]["required"]["lora_name"])


@pytest.mark.parametrize("again", ["continue", "train again"])
def test_cancelled_training_continues_later(server: ComfyUI, short: dict[str, Any], trained: Outcome,
                                            again: str) -> None:
    name = f"stopped {again}"
    prompt = upstream(with_inputs(short, {
        "SideStepTrainAdapter": {"adapter_name": name, "max_steps": 400, "if_already_trained": again},
        "SideStepTrainingSettings": {"heldout_every": 1000}}), "SideStepTrainAdapter")
    asked: list[float] = []

    def interrupt_at_step_5(event: tuple[str, dict[str, Any]]) -> None:
        kind, data = event
        if kind == "sidestep.progress" and data["metrics"].get("loss") is not None:
            if data["step"] >= 5 and not asked:
                server.interrupt()
                asked.append(data["step"])

    outcome = server.wait(server.submit(prompt), 580, interrupt_at_step_5)
    assert outcome.status == "interrupted"
    [kept] = (server.base / "models" / "loras").glob(f"{name}-step-*.safetensors")
    assert len(TensorFile(kept).stored) == 3 * 32
    step = int(re.search(r"step-(\d+)", kept.stem)[1])
    said = [data["message"] for kind, data in outcome.events if kind == "sidestep.progress"
            and data["status"] == "cancelled"]
    assert said
    assert kept.name in said[0]

    first_steps: list[int] = []

    def stop_again(event: tuple[str, dict[str, Any]]) -> None:
        kind, data = event
        if kind == "sidestep.progress" and data["metrics"].get("loss") is not None and not first_steps:
            first_steps.append(data["step"])
            server.interrupt()

    assert server.wait(server.submit(prompt), 580, stop_again).status == "interrupted"
    assert first_steps[0] > step
    [log] = (server.base / "output" / "sidestep" / "runs").glob(f"{name}-*/metrics.jsonl")
    steps = [row["step"] for row in metrics.read(log) if "loss" in row]
    assert steps == list(range(1, len(steps) + 1))


def with_node(prompt: Prompt, class_type: str, inputs: dict[str, Any], output: int, to: str) -> dict[str, Any]:
    """The training of the prompt, with an output of one more node as its input `to`."""
    found = upstream(prompt, "SideStepTrainAdapter")
    found["more"] = {"class_type": class_type, "inputs": inputs}
    return with_inputs(found, {"SideStepTrainAdapter": {to: ["more", output]}})


def test_connected_settings_replace_widgets(server: ComfyUI, short: dict[str, Any], trained: Outcome) -> None:
    changes = "max_steps: 2\nepochs: 0\ngradient_accumulation: 1\nlearning_rate: 0.003\ngradient_checkpointing: off"
    prompt = with_node(with_inputs(short, {"SideStepTrainAdapter": {"adapter_name": "by preset"}}),
                       "SideStepLoadPreset", {"preset": "quick_test", "changes": changes}, 1, "settings")
    assert facts(ran(server, prompt), prompt, "SideStepTrainAdapter")["steps"] == 2
    [run] = (server.base / "output" / "sidestep" / "runs").glob("by preset-*")
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["train"]["warmup_steps"] == 10
    assert "the node's own are not used" in server.log.read_text(encoding="utf-8", errors="replace")


def test_adapter_settings_become_a_preset(server: ComfyUI, short: dict[str, Any], trained: Outcome) -> None:
    prompt = upstream(short, "SideStepTrainAdapter")
    prompt["save"] = {"class_type": "SideStepSavePreset", "inputs": {
        "name": "of the adapter", "description": "", "overwrite": True,
        "adapter": [node_of(prompt, "SideStepTrainAdapter"), 0]}}
    ran(server, prompt)
    found = preset.read(server.base / "output" / "sidestep" / "presets" / "of the adapter.json").preset
    asked = {name: parse_setting(TrainConfig, name, value) if isinstance(value, str) else value
             for node in ("SideStepTrainAdapter", "SideStepTrainingSettings")
             for name, value in prompt[node_of(prompt, node)]["inputs"].items() if name in TrainConfig().to_json()}
    # A preset keeps what was automatic for another dataset and model.
    assert found.train.to_json() == TrainConfig().to_json() | asked
    assert found.adapter == LoraConfig(rank=16, alpha=32.0)


def test_training_starts_from_other_adapter(server: ComfyUI, short: dict[str, Any], trained: Outcome) -> None:
    fresh = facts(trained, short, "SideStepTrainAdapter")
    prompt = with_node(with_inputs(short, {"SideStepTrainAdapter": {"adapter_name": "from pipeline"}}),
                       "SideStepLoadAdapter", {"adapter_file": "pipeline.safetensors"}, 0, "start_from")
    begun = facts(ran(server, prompt), prompt, "SideStepTrainAdapter")
    assert begun["heldout_first"] == pytest.approx(fresh["heldout_last"], rel=SAME_LOSS)
    assert begun["heldout_first"] != pytest.approx(fresh["heldout_first"], rel=SAME_LOSS)


def test_training_resumes_from_listed_checkpoint(server: ComfyUI, short: dict[str, Any], trained: Outcome) -> None:
    origin = upstream(with_inputs(short, {"SideStepTrainAdapter": {"adapter_name": "origin"},
                                          "SideStepTrainingSettings": {"save_every": 2}}), "SideStepTrainAdapter")
    first = facts(ran(server, origin), origin, "SideStepTrainAdapter")
    listed = server.get_json("/object_info/SideStepTrainAdapter")["SideStepTrainAdapter"]["input"]["optional"]
    [choice] = [choice for choice in listed["resume_from"][1]["options"]
                if re.fullmatch(r"origin-\w+/checkpoint-step-4", choice)]
    again = with_inputs(origin, {"SideStepTrainAdapter": {"adapter_name": "again", "resume_from": choice}})
    outcome = ran(server, again)
    second = facts(outcome, again, "SideStepTrainAdapter")
    steps = [data["step"] for kind, data in outcome.events
             if kind == "sidestep.progress" and data["metrics"].get("loss") is not None]
    assert min(steps) > 4
    assert second["steps"] == 6
    assert weights(server.place(first["adapter"])) == weights(server.place(second["adapter"]))


@pytest.mark.parametrize("choice", ["origin/../../../secret", "none-0/checkpoint-step-4"])
def test_unlisted_checkpoint_is_refused(server: ComfyUI, short: dict[str, Any], trained: Outcome, choice: str) -> None:
    """ComfyUI still runs what does not depend on it: here, the preprocessing."""
    prompt = upstream(with_inputs(short, {"SideStepTrainAdapter": {"resume_from": choice}}), "SideStepTrainAdapter")
    reply = server.post_json("/prompt", {"prompt": prompt, "client_id": server.client_id})
    [error] = reply["node_errors"][node_of(prompt, "SideStepTrainAdapter")]["errors"]
    assert error["type"] == "value_not_in_list"
    assert node_of(prompt, "SideStepTrainAdapter") not in server.wait(reply["prompt_id"], 60).outputs


def weights(path: Path) -> dict[str, bytes]:
    """Every tensor of an adapter file as bytes."""
    return {name: tensor.numpy().tobytes() for name, tensor in read_tensors(path).items()}


@pytest.mark.parametrize(("class_type", "inputs", "said"), [
    ("SideStepPreprocessAudioFolder", {"folder": "no such folder"}, "There is no folder"),
    ("SideStepPreprocessAudioFolder", {"folder": "/nowhere/my songs"}, "There is no folder my songs."),
    ("SideStepPreprocessAudioFolder", {"dataset_name": "../../escape"}, "cannot be a file name"),
    ("SideStepTrainAdapter", {"adapter_name": "..\\escape"}, "cannot be a file name"),
    ("SideStepTrainAdapter", {"adapter_name": "con"}, "Windows keeps for itself"),
    ("SideStepTrainingSettings", {"device": "cuda:7", "heldout_every": 2}, "not available here"),
    ("SideStepConfigureLoRA", {"target_modules": "q_projj"}, "q_projj"),
    ("SideStepConfigureLoRA", {"module_ranks": "layers.0.*"}, "layers.0.*"),
    ("SideStepTrainingSettings", {"heldout_songs": 3}, "none would be left"),
    ("SideStepTrainingSettings", {"heldout_songs": "some"}, "heldout_songs must be a number or 'automatic'"),
    ("SideStepTrainAdapter", {"chunk_duration": "long"}, "chunk_duration must be a number or 'whole songs'"),
])
def test_errors_name_the_cause(server: ComfyUI, short: dict[str, Any], trained: Outcome, class_type: str,
                               inputs: dict[str, Any], said: str) -> None:
    prompt = upstream(with_inputs(short, {class_type: inputs}), "SideStepTrainAdapter")
    outcome = server.run(prompt, timeout=300)
    assert outcome.status == "error"
    assert said in outcome.exception_message
    told = [outcome.exception_message, *(data for kind, data in outcome.events if kind == "sidestep.progress")]
    assert str(server.base) not in json.dumps(told)
    assert not list(server.base.parent.glob("escape*"))


def test_prompt_needs_no_workflow(server: ComfyUI, short: dict[str, Any], trained: Outcome) -> None:
    """Extra data of an API client; the workflow's id only tells browser tabs apart."""
    body = {"prompt": upstream(short, "SideStepTrainAdapter"), "client_id": server.client_id,
            "extra_data": {"extra_pnginfo": {"workflow": None}}}
    outcome = server.wait(server.post_json("/prompt", body)["prompt_id"], 300)
    assert outcome.status == "success", outcome.exception_message


def test_pack_is_imported_without_errors(server: ComfyUI) -> None:
    log = server.log.read_text(encoding="utf-8", errors="replace")
    assert re.search(r"[\d.]+ seconds: \S*comfyui-side-step", log)
    assert "IMPORT FAILED" not in log


def test_node_interface_matches_snapshot(server: ComfyUI) -> None:
    """Changing a node's inputs or outputs breaks people's workflows: change the snapshot on purpose, with CHANGELOG."""
    found = {name: interface(info) for name, info in server.get_json("/object_info").items()
             if name.startswith("SideStep")}
    assert found == json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def interface(info: dict[str, Any]) -> dict[str, Any]:
    """Ids, types, defaults and ranges, without the choices that depend on the machine's files."""
    inputs = {}
    for kind in ("required", "optional"):
        for name, (io_type, *options) in info["input"].get(kind, {}).items():
            settings = {key: value for key, value in (options[0] if options else {}).items()
                        if key in ("default", "min", "max", "step", "multiline")}
            of_machine = name.startswith("adapter_file") or name in (
                "model", "text_encoder", "vae", "preset", "resume_from", "estimate_file", "sampler_name", "scheduler")
            choices = (options[0].get("options") if options and io_type == "COMBO" else None)
            inputs[name] = {"kind": kind, "type": io_type if isinstance(io_type, str) else "COMBO", **settings,
                            **({"options": choices} if choices and not of_machine else {})}
    return {"inputs": inputs, "outputs": info["output"], "output_names": info["output_name"],
            "output_node": info["output_node"]}
