"""The set-up behind run.py, and how the demo finds its model files."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import tomllib
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bootstrap
import run
from demo.models import DemoError, model_files, read_header, with_models
from demo.verify import verify

LOADERS = {
    "1": {"class_type": "UNETLoader", "inputs": {"unet_name": ""}},
    "2": {"class_type": "DualCLIPLoader", "inputs": {"clip_name1": "", "clip_name2": ""}},
    "3": {"class_type": "VAELoader", "inputs": {"vae_name": ""}},
    "4": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "seed": 1}},
    "5": {"class_type": "TextEncodeAceStepAudio1.5", "inputs": {"clip": ["2", 0]}},
    "6": {"class_type": "VAEDecodeAudio", "inputs": {"vae": ["3", 0], "samples": ["4", 0]}},
}


def write_safetensors(path: Path, *names: str) -> Path:
    """A file with one byte per tensor."""
    tensors = {name: {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i, name in enumerate(names)}
    header = json.dumps(tensors).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(len(names)))
    return path


def test_run_py_needs_no_packages() -> None:
    bare = subprocess.run([sys.executable, "-S", "-E", "-s", bootstrap.ROOT / "run.py", "--help"],
                          capture_output=True, text=True, check=True)
    assert "demo" in bare.stdout


@pytest.mark.parametrize("name", ["constraints.txt", "requirements.txt", "requirements-dev.txt"])
def test_package_lists_are_plain(name: str) -> None:
    lines = (bootstrap.ROOT / name).read_text(encoding="utf-8").splitlines()
    pattern = r"[a-z0-9-]+==[0-9][\w.]*" if name == "constraints.txt" else r"#.*|[a-z0-9-]+(>=[\d.]+)?"
    assert [line for line in lines if not re.fullmatch(pattern, line)] == []


def test_wrong_checksum_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "comfy.tar.gz"
    archive.write_bytes(b"something else")
    with pytest.raises(bootstrap.SetupError, match=bootstrap.PINNED.sha256):
        bootstrap.unpack(bootstrap.PINNED, archive, tmp_path)
    assert list(tmp_path.iterdir()) == [archive]


def test_stamp_follows_every_list(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("torch", encoding="utf-8")
    second.write_text("peft", encoding="utf-8")
    here = bootstrap.Environment(tmp_path)
    before = bootstrap.digest(here, [first, second])
    assert bootstrap.digest(here, [first, second]) == before
    second.write_text("peft>=1", encoding="utf-8")
    elsewhere = bootstrap.Environment(tmp_path / "elsewhere")
    assert len({before, bootstrap.digest(here, [first, second]), bootstrap.digest(here, [first]),
                bootstrap.digest(elsewhere, [first])}) == 4


def test_host_pins_win_over_constraints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "CACHE", tmp_path)
    host = bootstrap.HOSTS[0]
    host.folder.mkdir()
    (host.folder / "requirements.txt").write_text("comfyui-workflow-templates==0.9.10\ntorch\nav>=14\n",
                                                  encoding="utf-8")
    constraints = bootstrap.constraints_of(host).read_text(encoding="utf-8")
    assert "comfyui-workflow-templates" not in constraints  # nor the packages that only come with it
    assert {"torch", "av"} <= {line.partition("==")[0] for line in constraints.split()}


def test_oldest_comfyui_is_tested() -> None:
    project = tomllib.loads((bootstrap.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    oldest = min(bootstrap.HOSTS, key=lambda host: [int(part) for part in host.version.split(".")])
    assert project["tool"]["comfy"]["requires-comfyui"] == f">={oldest.version}"
    readme = (bootstrap.ROOT / "README.md").read_text(encoding="utf-8")
    assert [host.version for host in bootstrap.HOSTS if host.version not in readme] == []


def test_hosts_reports_every_demo(
        monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    facts: dict[str, dict[str, object]] = {host.version: {"effect": 1.0} for host in bootstrap.HOSTS}
    monkeypatch.setattr(run, "demo_in", lambda host: facts[host.version])
    assert run.hosts([]) == 0
    facts["0.18.2"] = {"error": "The demo failed."}
    assert run.hosts([]) == 1
    assert json.loads(capfd.readouterr().out.splitlines()[-1]) == facts


@pytest.mark.parametrize(("code", "facts"), [
    ("print('a line'); print('{\"effect\": 1.0}')", {"effect": 1.0}),
    ("print('The demo failed. No room.'); print('more'); raise SystemExit(1)", {"error": "The demo failed. No room."}),
    ("raise SystemExit(3)", {"error": "The demo ended with exit code 3."}),
])  # fmt: skip
def test_demo_verdict_is_read(
        code: str, facts: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "CACHE", tmp_path)
    setup = bootstrap.Setup(Path(sys.executable), tmp_path, Path(sys.executable))
    monkeypatch.setattr(bootstrap, "prepare_host", lambda host: setup)
    monkeypatch.setattr(run, "launch", lambda python, module: [python, "-c", code])
    assert run.demo_in(bootstrap.PINNED) == facts


def test_comfyui_path_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(bootstrap.SetupError, match=re.escape(str(tmp_path))):
        bootstrap.own_comfyui()
    (tmp_path / "main.py").touch()
    assert bootstrap.own_comfyui() == tmp_path


def test_pack_finds_its_comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path / "custom_nodes" / "pack")
    assert bootstrap.own_comfyui() is None
    (tmp_path / "main.py").touch()
    assert bootstrap.own_comfyui() == tmp_path


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", "x", "y")
    assert set(read_header(path)) == {"x", "y"}
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DemoError, match="Download"):
        read_header(path)


def test_split_model_finds_its_parts(tmp_path: Path) -> None:
    model = write_safetensors(tmp_path / "diffusion_models" / "ace" / "turbo.safetensors", "decoder.x")
    write_safetensors(tmp_path / "text_encoders" / "qwen_0.6b_ace15.safetensors", "x")
    write_safetensors(tmp_path / "text_encoders" / "qwen_4b_ace15.safetensors", "x")
    with pytest.raises(DemoError, match=re.escape(str(tmp_path / "vae"))):
        model_files(model)
    write_safetensors(tmp_path / "vae" / "ace_1.5_vae.safetensors", "x")
    filled = with_models(LOADERS, model_files(model))
    assert filled["1"]["inputs"] == {"unet_name": "ace/turbo.safetensors"}
    assert filled["2"]["inputs"] == {"clip_name1": "qwen_0.6b_ace15.safetensors",
                                     "clip_name2": "qwen_4b_ace15.safetensors"}
    assert filled["3"]["inputs"] == {"vae_name": "ace_1.5_vae.safetensors"}
    assert LOADERS["1"]["inputs"] == {"unet_name": ""}


def test_all_in_one_replaces_three_loaders(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "aio.safetensors", "model.diffusion_model.x", "vae.x")
    filled = with_models(LOADERS, model_files(path))
    assert {node["class_type"] for node in filled.values()}.isdisjoint({"UNETLoader", "DualCLIPLoader", "VAELoader"})
    assert filled["checkpoint"]["inputs"] == {"ckpt_name": "aio.safetensors"}
    assert filled["4"]["inputs"] == {"model": ["checkpoint", 0], "seed": 1}
    assert filled["5"]["inputs"] == {"clip": ["checkpoint", 1]}
    assert filled["6"]["inputs"] == {"vae": ["checkpoint", 2], "samples": ["4", 0]}


def test_lone_diffusion_model_is_refused(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "downloads" / "turbo.safetensors", "decoder.x")
    with pytest.raises(DemoError, match="models/diffusion_models"):
        model_files(path)


RUN = {
    "1": {"class_type": "SideStepTrainAdapter", "inputs": {"max_steps": 40}},
    "2": {"class_type": "SideStepApplyAdapter", "inputs": {}},
    "3": {"class_type": "EmptyAceStep1.5LatentAudio", "inputs": {"seconds": 1.0}},
}
TRAINED = {"keys_matched": 32, "keys_total": 32, "effect": 1.001, "steps": 40, "heldout_first": 2.0,
           "heldout_last": 1.0}
APPLIED = {"matched": 32, "total": 32}


def demo_outputs(folder: Path, trained: dict[str, Any], applied: dict[str, Any], seconds: float = 1.0,
                 peak: float = 0.5) -> dict[str, Any]:
    """Return the outputs that the server reports for a run, with its two files."""
    adapter = write_safetensors(folder / "demo.safetensors", "layers.0.lora_A.weight")
    tone = np.sin(np.arange(round(seconds * 8000)) * 0.3) * peak * 32767
    with wave.open(str(folder / "demo.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(tone.astype("<i2").tobytes())
    return {"1": {"sidestep": [{"adapter": f"loras/{adapter.name}", **trained}]}, "2": {"sidestep": [applied]},
            "4": {"audio": [{"filename": "demo.wav", "subfolder": "", "type": "output"}]}}


def test_good_run_is_verified(tmp_path: Path) -> None:
    facts = verify(RUN, demo_outputs(tmp_path, TRAINED, APPLIED), lambda told: tmp_path / Path(told).name)
    assert facts == {**TRAINED, "adapter": str(tmp_path / "demo.safetensors"), "audio": str(tmp_path / "demo.wav")}


@pytest.mark.parametrize(("wrong", "message"), [
    ({"trained": {**TRAINED, "keys_matched": 31}}, "31 of 32 keys"),
    ({"applied": {**APPLIED, "matched": 0}}, "0 of 32 keys"),
    ({"trained": {**TRAINED, "effect": 0.5}}, "effect of 0.5"),
    ({"trained": {**TRAINED, "effect": float("nan")}}, "effect of nan"),
    ({"trained": {**TRAINED, "steps": 39}}, "39 steps"),
    ({"trained": {**TRAINED, "heldout_last": 2.0}}, "held-out"),
    ({"trained": {**TRAINED, "heldout_last": None}}, "held-out"),
    ({"seconds": 0.5}, "lasts 0.50 s"),
    ({"peak": 0.0}, "silent"),
])
def test_wrong_fact_fails_the_demo(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DemoError, match=message):
        verify(RUN, demo_outputs(tmp_path, **{"trained": TRAINED, "applied": APPLIED, **wrong}),
               lambda told: tmp_path / Path(told).name)
