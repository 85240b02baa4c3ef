"""A training imports what it uses, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import World

ROOT = Path(__file__).parents[2]
TRAIN = """
import json, sys
from sidestep_cli.main import main
assert main(json.loads(sys.argv[1])) == 0
print("modules", *sys.modules)
"""
USED = {"torch", "numpy", "safetensors", "filelock", "psutil", "typing_extensions"}
"""Packages of a training on a CPU; torch itself imports the other ones of ITS_OWN."""
ITS_OWN = {"torchgen", "tqdm"}
COMPILER = {"torch._dynamo", "torch._inductor", "sympy"}


def imported(words: list[str]) -> set[str]:
    """Modules of a fresh process that ran a command."""
    done = subprocess.run([sys.executable, "-c", TRAIN, json.dumps(words)], cwd=ROOT, capture_output=True, text=True,
                          encoding="utf-8", check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("modules ")[2].split())


def packages(modules: set[str]) -> set[str]:
    """Packages of other projects."""
    installed = {path.name.partition(".")[0] for folder in sys.path if Path(folder).name == "site-packages"
                 for path in Path(folder).iterdir()}
    return {module.partition(".")[0] for module in modules} & installed


@pytest.mark.slow
def test_lora_imports_little(world: World, tmp_path: Path) -> None:
    """From the command to the proven file; peft, transformers and torch's compiler take longer than all of it."""
    found = imported(world.training(tmp_path / "a", "--max-steps", "2"))
    assert packages(found) <= USED | ITS_OWN
    assert not found & COMPILER


@pytest.mark.slow
def test_lokr_imports_lycoris(world: World, tmp_path: Path) -> None:
    """The twin, in which more is needed and found."""
    found = imported(world.training(tmp_path / "a", "--max-steps", "1", "--adapter-type", "lokr"))
    assert "lycoris" in packages(found) - USED
