"""An installed package in an environment of its own, without ComfyUI, encodes songs, trains, applies and merges."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import TRAINING, World

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".cache" / "standalone"
"""Kept between runs, so that its packages are compiled once; the package itself is installed anew each time."""
SCRIPTS = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")

WORK = """
import importlib.util, sys
from pathlib import Path
assert importlib.util.find_spec("comfy") is None and importlib.util.find_spec("folder_paths") is None
import sidestep_cli
from sidestep_cli.main import main
assert Path(sys.prefix) in Path(sidestep_cli.__file__).parents
checkpoints, music, training = sys.argv[1:]
model = ["--checkpoint-dir", checkpoints]
assert main(["preprocess", *model, "--audio-dir", music, "--tensor-output", "tensors"]) == 0
assert main(["fixed", *model, "--dataset-dir", "tensors", "--output-dir", "out", "--max-steps", "2",
             "--heldout-songs", "0", *training.split()]) == 0
assert main(["apply", *model, "--adapter", "out/out.safetensors", "--output", "merged"]) == 0
import torch
from diffusers import AutoencoderOobleck
from peft import PeftModel
assert "comfy" not in sys.modules
"""


def run(*words: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COMFYUI_PATH")}
    done = subprocess.run([str(word) for word in words], cwd=cwd, env={**environment, "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
def test_installed_package_trains_and_merges(world: World, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("sidestep_core", "sidestep_cli"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    uv, python = Path(sys.executable).parent / "uv", SCRIPTS / "python"
    if not python.exists():
        run(uv, "venv", "-q", "--python", sys.executable, ENVIRONMENT, cwd=tmp_path)
    run(uv, "pip", "install", "-q", "--python", python, "--reinstall-package", "comfyui-side-step", "-c",
        ROOT / "constraints.txt", f"{source}[standalone]", cwd=tmp_path)
    assert '"rank": 16' in run(SCRIPTS / "side-step", "preset", "quick_test", cwd=tmp_path)
    out = run(python, "-c", WORK, world.checkpoints, world.one_song, TRAINING.replace("--heldout-songs 1", ""),
              cwd=tmp_path)
    assert "out.safetensors is ready: 2 steps" in out
    assert (tmp_path / "merged_turbo.safetensors").is_file()
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
