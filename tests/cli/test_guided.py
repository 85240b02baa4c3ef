"""Guided mode in a pseudo-terminal, as a person sees it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pexpect
import pytest

from sidestep_core.adapters.file import facts_of

from .conftest import World

ROOT = Path(__file__).parents[2]
DOWN, ENTER = "\x1b[B", "\r"
SECONDS = 200


@pytest.mark.slow
def test_guided_mode_trains(world: World, tmp_path: Path) -> None:
    """The only model is taken by itself; a wrong folder is asked again; back leads back; the proposal trains."""
    (tmp_path / "checkpoints").symlink_to(world.checkpoints, target_is_directory=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
                   "COLUMNS": "120", "LINES": "50", "TERM": "xterm"}
    person = pexpect.spawn(sys.executable, ["-m", "sidestep_cli"], cwd=str(tmp_path), env=environment,
                           encoding="utf-8", timeout=SECONDS, dimensions=(50, 120))
    person.expect("Model: acestep-v15-turbo, the only one here")
    person.expect("Folder with your songs")
    person.send(f"nowhere{ENTER}")
    person.expect("does not exist")
    person.expect("Folder with your songs")
    person.send(f"{world.one_song}{ENTER}")
    person.expect("1 songs, 0 minutes; 1 without a caption")
    person.expect("What do you want")
    person.send(f"{DOWN * 4}{ENTER}")  # Back
    person.expect("Folder with your songs")
    person.send(f"{world.one_song}{ENTER}")
    person.expect("What do you want")
    person.send(f"{DOWN}{ENTER}")
    person.expect("Proposal .quick_test")
    person.expect("no graphics card that trains fast")
    person.expect("side-step --yes fixed")
    person.expect("Ready")
    person.send(f"{DOWN}{ENTER}")
    person.expect("Name of the preset")
    person.send(f"mine{ENTER}")
    person.expect("--preset mine")
    person.expect("Ready")
    person.send(ENTER)
    person.expect("Adapter file")
    person.expect("is ready: ")
    person.expect(pexpect.EOF)
    person.close()
    assert person.exitstatus == 0
    preset = json.loads((tmp_path / "presets" / "mine.json").read_text(encoding="utf-8"))
    facts = facts_of(tmp_path / "adapters" / "one" / "one.safetensors")
    assert facts["train"]["max_steps"] == preset["train"]["max_steps"]
    assert facts["adapter"]["rank"] == preset["adapter"]["rank"] == 16
