"""Command-line benchmark: flags of Side-Step's reference that are taken, and one training by nodes and by flags.

`same_adapter`: ComfyUI encodes the demo's songs and trains; `side-step fixed` with the same settings on the same model
and dataset writes the same file, byte for byte.  `first_step_seconds`: from the start of the command to its first step.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from demo.examples import PROMPT
from demo.models import model_files, with_models
from demo.setup import BASE, PACK
from demo.synthetic_model import DEMO_MODEL
from tests.cli.test_flags import MEANING, REQUIRED, parsed, referenced
from tests.running import demo_comfyui

FLAGS = ("--name demo --rank 16 --alpha 32 --max-steps 6 --lr 0.003 --warmup-steps 4 --gradient-accumulation 2 "
         "--device cpu --yes --json").split()
SETTINGS = {"max_steps": 6, "preview_every": "never"}
TRAINER, OTHERS, CONFIGURE = "SideStepTrainAdapter", "SideStepTrainingSettings", "SideStepConfigureLoRA"


def accepted() -> tuple[int, int]:
    """Count the flags of the reference, and those that are taken with their meaning."""
    taken = 0
    every = list(referenced())
    for subcommand, flag in every:
        words = (flag, *MEANING[flag][0].split())
        if (subcommand, flag) == ("estimate", "--precision"):
            words = (flag, "bf16")
        with contextlib.suppress(SystemExit):
            parsed(subcommand if subcommand in REQUIRED else "fixed", *words)
            taken += 1
    return len(every), taken


def prompt() -> dict[str, Any]:
    """Workflow that encodes the demo's songs and trains, with the settings of FLAGS and else the defaults."""
    nodes = with_models(json.loads(PROMPT.read_text(encoding="utf-8")), model_files(BASE / "models" / DEMO_MODEL))
    kept = ("SideStepLoadACEStepCheckpoint", "SideStepPreprocessAudioFolder", CONFIGURE, TRAINER, OTHERS)
    found = {number: node for number, node in nodes.items() if node["class_type"] in kept}
    for node in found.values():
        if node["class_type"] == TRAINER:
            node["inputs"] |= SETTINGS
        if node["class_type"] == OTHERS:
            node["inputs"] = {"warmup_steps": 4, "gradient_accumulation": 2}
    return found


def by_nodes(base: Path) -> tuple[Path, Path]:
    """Train in a ComfyUI; return the adapter and the dataset."""
    with demo_comfyui(base) as server:
        done = server.run(prompt())
        trained = next(output["sidestep"][0] for output in done.outputs.values()
                       if "adapter" in output.get("sidestep", [{}])[0])
        return server.place(trained["adapter"]), base / "output" / "sidestep" / "datasets" / "demo"


def by_flags(dataset: Path, out: Path) -> tuple[Path, float]:
    """Train from the command line; return the adapter, and the seconds until its first step."""
    tokenizer = Path(os.environ["COMFYUI_PATH"]) / "comfy" / "text_encoders" / "qwen25_tokenizer"
    command = [sys.executable, "-m", "sidestep_cli", "fixed", "--checkpoint-dir", BASE / "models", "--model-variant",
               DEMO_MODEL.stem, "--tokenizer", tokenizer, "--dataset-dir", dataset, "--output-dir", out, *FLAGS]
    began, first = time.monotonic(), 0.0
    with subprocess.Popen(list(map(str, command)), cwd=PACK, stdout=subprocess.PIPE, text=True,
                          encoding="utf-8") as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if "loss" in event and not first:
                first = time.monotonic() - began
    if process.returncode:
        raise SystemExit(f"The command ended with exit code {process.returncode}.")
    return out / "demo.safetensors", first


def main() -> int:
    flags, taken = accepted()
    with TemporaryDirectory() as root:
        of_nodes, dataset = by_nodes(Path(root) / "comfyui")
        of_flags, first = by_flags(dataset, Path(root) / "out")
        same = of_nodes.read_bytes() == of_flags.read_bytes()
    print(json.dumps({"flags": flags, "accepted": taken, "same_adapter": same, "first_step_seconds": round(first, 1)}))
    return 0 if flags == taken and same else 1


if __name__ == "__main__":
    sys.exit(main())
