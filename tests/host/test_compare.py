"""Compare Adapters in the real host: each take is what the plain nodes make, kept on the disk and served by id."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from demo.server import ComfyUI, Outcome, Prompt
from sidestep_core.adapters import file as adapter_file
from sidestep_core.audio.decode import SAMPLE_RATE, decode
from sidestep_core.compare import comparison
from sidestep_core.model.checkpoint import Checkpoint
from tests.host.pack import pack_module
from tests.host.test_pipeline import node_of, ran, upstream, with_inputs

SECONDS = 1.0
STEPS, SEED, GUIDANCE = 2, 7, 3.0
RUN, CHECKPOINT = "mine-3f2a", "checkpoint-step-20"


def write_adapter(checkpoint: Checkpoint, path: Path, seed: int) -> Path:
    """Write a LoRA that changes the model a lot."""
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    weights = checkpoint.model_weights()
    for name in ("q_proj", "v_proj"):
        rows, columns = weights.shape(f"decoder.layers.0.self_attn.{name}.weight")
        for factor, shape in (("A", (4, columns)), ("B", (rows, 4))):
            tensors[f"base_model.model.layers.0.self_attn.{name}.lora_{factor}.weight"] = torch.randn(
                shape, generator=random) / 4
        tensors[f"base_model.model.layers.0.self_attn.{name}.alpha"] = torch.tensor(4.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    adapter_file.write(path, tensors, {})
    return path


@pytest.fixture(scope="module")
def takes(comfy: ModuleType) -> Any:
    """nodes/host/compare/takes.py in this process, with a server that nobody is connected to."""
    import server

    server.PromptServer(asyncio.new_event_loop())
    return pack_module("nodes.host.compare.takes")


@pytest.fixture(scope="module")
def inputs(comfy: ModuleType, checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
    """Model, conditioning, latent and VAE of the demo in this process."""
    from comfy_extras import nodes_ace, nodes_model_advanced

    with torch.inference_mode():
        model = comfy.sd.load_diffusion_model(str(checkpoint.model[0]))
        [model] = nodes_model_advanced.ModelSamplingAuraFlow().patch_aura(model, 3.0)
        random = torch.Generator().manual_seed(1)
        words = [[torch.randn(1, 8, 1024, generator=random),
                  {"conditioning_lyrics": torch.randn(1, 4, 1024, generator=random)}]]
        silence = [[torch.zeros(1, 8, 1024), {"conditioning_lyrics": torch.zeros(1, 4, 1024)}]]
        [latent] = nodes_ace.EmptyAceStep15LatentAudio.execute(seconds=SECONDS, batch_size=1).args
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(checkpoint.vae)))
        yield {"model": model, "positive": words, "negative": silence, "latent": latent, "vae": vae}


def plain(inputs: dict[str, Any], adapter: Path | None, strength: float) -> Tensor:
    """Waveform that Apply Adapter, KSampler and VAE Decode Audio make."""
    from comfy_extras import nodes_audio

    import nodes

    model = inputs["model"]
    if adapter is not None:
        handle = adapter_file.open_adapter(adapter)
        [model] = pack_module("nodes.apply_adapter").ApplyAdapter.execute(model, handle, strength).args
    [latent] = nodes.KSampler().sample(model, SEED, STEPS, GUIDANCE, "euler", "simple", inputs["positive"],
                                       inputs["negative"], inputs["latent"])
    [audio] = nodes_audio.VAEDecodeAudio.execute(inputs["vae"], latent).args
    return audio["waveform"][0]


def take(takes: Any, inputs: dict[str, Any], adapter: Path | None, strength: float) -> Tensor:
    sampling = takes.Sampling(seed=SEED, steps=STEPS, cfg=GUIDANCE, sampler="euler", scheduler="simple", denoise=1.0,
                              **{name: value for name, value in inputs.items() if name != "model"})
    row = takes.Row(take=takes.Take(name="mine", strength=strength), path=adapter)
    found: Tensor = takes.generate(inputs["model"], row, sampling)
    return found


def test_takes_equal_plain_nodes_exactly(takes: Any, inputs: dict[str, Any], checkpoint: Checkpoint,
                                         tmp_path: Path) -> None:
    """In any order: no take leaves anything behind on the model."""
    adapter = write_adapter(checkpoint, tmp_path / "mine.safetensors", seed=1)
    with torch.inference_mode():
        base, whole = plain(inputs, None, 0), plain(inputs, adapter, 1.0)
        assert torch.equal(take(takes, inputs, adapter, 1.0), whole)
        half = take(takes, inputs, adapter, 0.5)
        assert torch.equal(take(takes, inputs, None, 0), base)
        assert torch.equal(take(takes, inputs, adapter, 1.0), whole)
    assert not torch.equal(half, whole)
    assert not torch.equal(base, whole)
    assert inputs["model"].patches == {}


def test_batches_are_refused(takes: Any) -> None:
    with pytest.raises(pack_module("sidestep_core.errors").ConfigError, match="batch of 2"):
        takes.require_one({"samples": torch.zeros(2, 64, 10)})


def test_broken_takes_are_named(takes: Any) -> None:
    with pytest.raises(pack_module("sidestep_core.errors").ConfigError, match=r"mine at 0\.7 is not finite"):
        takes.require_sound(torch.full((2, 10), torch.nan), takes.Take(name="mine", strength=0.7))


def test_prompt_is_found_upstream(takes: Any) -> None:
    prompt = {"1": {"inputs": {"tags": "piano", "lyrics": ["9", 0]}},
              "2": {"inputs": {"conditioning": ["1", 0]}}, "3": {"inputs": {"positive": ["2", 0]}}}
    assert takes.texts(prompt, "3") == {"tags": "piano", "lyrics": ""}
    assert takes.texts(prompt, "1") == {"tags": "", "lyrics": ""}
    assert takes.texts({"3": {"inputs": {"positive": ["3", 0]}}}, "3") == {"tags": "", "lyrics": ""}


def comparing(prompt: Prompt, **changes: Any) -> dict[str, Any]:
    """The demo's generation with Compare Adapters in place of Apply Adapter and KSampler."""
    sampler = prompt[node_of(prompt, "KSampler")]["inputs"]
    loader, vae = node_of(prompt, "UNETLoader"), node_of(prompt, "VAELoader")
    inputs = {name: value for name, value in sampler.items() if name != "model"} | {
        "model": [loader, 0], "vae": [vae, 0], "steps": STEPS, "strengths": "1.0"}
    inputs |= {f"adapter_file_{number}": "none" for number in (1, 2, 3)}
    inputs |= {f"strengths_{number}": "1.0" for number in (1, 2, 3)}
    changed = with_inputs(prompt, {"EmptyAceStep1.5LatentAudio": {"seconds": SECONDS}, "SaveAudio": {
        "audio": ["compare", 0], "filename_prefix": "audio/takes"}})
    changed["compare"] = {"class_type": "SideStepCompareAdapters", "inputs": inputs | changes}
    return upstream(changed, "SaveAudio")


@pytest.fixture(scope="module")
def compared(server: ComfyUI, prompt: Prompt, checkpoint: Checkpoint) -> Outcome:
    """Outcome of a comparison of a LoRA file at two strengths and of a run's checkpoint."""
    write_adapter(checkpoint, server.base / "models" / "loras" / "mine.safetensors", seed=1)
    folder = server.base / "output" / "sidestep" / "runs" / RUN / CHECKPOINT
    write_adapter(checkpoint, folder / "adapter.safetensors", seed=2)
    (folder / "state.json").write_text("{}", encoding="utf-8")
    return ran(server, comparing(prompt, adapter_file_1="mine.safetensors", strengths_1="0.7, 1.0",
                                 adapter_file_2=f"{RUN}/{CHECKPOINT}"))


@pytest.fixture(scope="module")
def name(compared: Outcome) -> str:
    found: str = compared.outputs["compare"]["sidestep"][0]["comparison"]
    return found


def ask(server: ComfyUI, path: str, body: object = None) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.address}/sidestep/comparisons/{path}", data,
                                     {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_comparison_has_base_and_rows(server: ComfyUI, compared: Outcome, name: str, prompt: Prompt) -> None:
    made = server.get_json(f"/sidestep/comparisons/{name}")
    assert [(one["name"], one["strength"]) for one in made["takes"]] == [
        ("base", 0), ("mine", 0.7), ("mine", 1), ("mine step 20", 1)]
    assert made["prompt"] == prompt[node_of(prompt, "TextEncodeAceStepAudio1.5")]["inputs"]["tags"]
    assert (made["seed"], made["steps"], made["seconds"], made["votes"], made["kept"]) == (
        7, STEPS, SECONDS, [0, 0, 0, 0], None)
    assert all(-60 < one["lufs"] < 0 for one in made["takes"])
    assert made in server.get_json("/sidestep/comparisons")["comparisons"]
    assert str(server.base) not in json.dumps(made)


def test_each_output_is_served(server: ComfyUI, compared: Outcome, name: str, tmp_path: Path) -> None:
    [files] = [output["audio"] for output in compared.outputs.values() if "audio" in output]
    sounds = []
    for number in range(1, len(files) + 1):
        (tmp_path / "served.flac").write_bytes(ask(server, f"{name}/takes/{number}")[1])
        sounds.append(decode(tmp_path / "served.flac"))
    assert [sound.shape for sound in sounds] == [(2, round(SECONDS * SAMPLE_RATE))] * 4
    assert not any(torch.equal(sounds[0], sound) for sound in sounds[1:])


def test_votes_are_counted(server: ComfyUI, name: str) -> None:
    assert json.loads(ask(server, f"{name}/vote", {"take": 2})[1])["votes"] == [0, 1, 0, 0]
    assert json.loads(ask(server, f"{name}/vote", {"take": 2})[1])["votes"] == [0, 2, 0, 0]
    assert server.get_json(f"/sidestep/comparisons/{name}")["votes"] == [0, 2, 0, 0]


def test_kept_checkpoint_joins_lora_list(server: ComfyUI, name: str) -> None:
    made = json.loads(ask(server, f"{name}/keep", {"take": 4})[1])
    assert (made["kept"], made["takes"][3]["adapter_file"]) == (4, "mine-step-20.safetensors")
    copy = server.base / "models" / "loras" / "mine-step-20.safetensors"
    original = server.base / "output" / "sidestep" / "runs" / RUN / CHECKPOINT / "adapter.safetensors"
    assert copy.read_bytes() == original.read_bytes()
    assert json.loads(ask(server, f"{name}/keep", {"take": 3})[1])["kept"] == 3


def test_replaced_checkpoint_is_not_kept(server: ComfyUI, checkpoint: Checkpoint, name: str) -> None:
    root = server.base / "output" / "sidestep" / "comparisons"
    found = comparison.read(root, name)
    assert found is not None
    other = comparison.Comparison.from_json(found.to_json() | {"id": comparison.new_id(0)})
    fresh = [take.to_json() | {"adapter_file": ""} for take in other.takes]
    comparison.write(root, comparison.Comparison.from_json(other.to_json() | {"takes": fresh}), [])
    folder = server.base / "output" / "sidestep" / "runs" / RUN / CHECKPOINT
    write_adapter(checkpoint, folder / "adapter.safetensors", seed=3)
    status, text = ask(server, f"{other.id}/keep", {"take": 4})
    assert (status, b"written again" in text) == (422, True)


@pytest.mark.parametrize(("path", "body", "status"), [
    ("20260101-000000-abcd", None, 204), ("..%2F..%2Fruns", None, 204), ("20260101-000000-abcd/takes/1", None, 404),
    ("20260101-000000-abcd/vote", {"take": 1}, 404), ("{}/takes/9", None, 404), ("{}/vote", {"take": 9}, 422),
    ("{}/vote", {"take": "1"}, 422), ("{}/vote", {}, 422), ("{}/keep", {"take": 0}, 422)])
def test_wrong_requests_are_refused(server: ComfyUI, name: str, path: str, body: object, status: int) -> None:
    assert ask(server, path.format(name), body)[0] == status


@pytest.mark.parametrize(("changes", "message"), [
    ({}, "no adapter to compare"),
    ({"adapter_file_1": "mine.safetensors", "strengths_1": "0"}, "leave out 0"),
    ({"adapter_file_1": "mine.safetensors", "adapter_file_2": "mine.safetensors"}, "mine at 1 is chosen twice"),
    ({"adapter_file_1": "mine.safetensors", "strengths_1": "1 2 3 4 5 6 7 8 9"}, "10 takes"),
])
def test_wrong_rows_are_named(server: ComfyUI, compared: Outcome, prompt: Prompt, changes: dict[str, str],
                              message: str) -> None:
    outcome = server.run(comparing(prompt, **changes), timeout=580)
    assert outcome.status == "error"
    assert message in outcome.exception_message
