"""Train, then generate: the example workflow in a real ComfyUI, every result verified.  Run by `run.py demo`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import av.error

from .models import DemoError, with_models
from .server import ComfyUI, Event, Prompt, ServerError
from .setup import PACK, Setup, set_up
from .verify import verify

WORKFLOW = Path(__file__).parent / "train_then_generate.api.json"
TIMEOUT = 12 * 3600.0
"""Seconds; a real checkpoint on a slow machine may take all night."""
TRAINER, SETTINGS = "SideStepTrainAdapter", "SideStepTrainingSettings"
REAL_MODEL = {TRAINER: {"learning_rate": 1e-4, "chunk_duration": "60"}, SETTINGS: {"gradient_checkpointing": "auto"}}
"""Settings for a model of real size; those of the workflow suit the embedded one."""
FULL_SIZE = {TRAINER: {"max_steps": 4},
             SETTINGS: {"warmup_steps": 1, "gradient_accumulation": 1, "heldout_every": 2, "precision": "bf16"}}
"""Settings for the embedded model of real size, which is also trained without a GPU."""
LINE_SECONDS = 2.0
"""Seconds between two progress lines of one node."""


def main() -> int:
    """Run the demo; exit code 0 only if everything was verified.  The last line is the facts as JSON."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--audio", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--base", type=Path, help="folder of songs, outputs and settings")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        setup = set_up(options.audio, options.checkpoint, options.base)
        facts = play(setup) | {"seconds": round(time.monotonic() - started, 1)}
    except (DemoError, ServerError, TimeoutError, OSError, av.error.FFmpegError) as error:
        print(f"The demo failed. {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    print(summary(facts, setup))
    print(json.dumps(facts, allow_nan=False))
    return 0


def play(setup: Setup) -> dict[str, Any]:
    """Run the workflow and return its verified facts."""
    prompt = with_models(json.loads(WORKFLOW.read_text(encoding="utf-8")), setup.files)
    for node in prompt.values():
        if node["class_type"] == "SideStepPreprocessAudioFolder":
            node["inputs"]["folder"] = str(setup.songs)
        if node["class_type"] == TRAINER:
            node["inputs"]["if_already_trained"] = "train again"  # every demo shows a training, not an earlier one
        if not setup.embedded:
            node["inputs"] |= REAL_MODEL.get(node["class_type"], {})
        if setup.full_size:
            node["inputs"] |= FULL_SIZE.get(node["class_type"], {})
    print(f"Starting ComfyUI ({setup.host})", flush=True)
    with ComfyUI(setup.host, setup.base, pack=PACK, extra_args=setup.extra_args) as server:
        print(f"ComfyUI answers at {server.address}; its log is {server.log}", flush=True)
        outcome = server.run(prompt, TIMEOUT, ProgressLines(prompt))
        if outcome.status != "success":
            raise DemoError(f"ComfyUI ended the workflow with: {outcome.status}. {outcome.exception_message}\n"
                            f"{server.tail()}")
        return verify(prompt, outcome.outputs, server.place)


class ProgressLines:
    """Printer of progress: each node as it starts, and its progress."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.started = self.printed = time.monotonic()
        self.last = ""

    def __call__(self, event: Event) -> None:
        kind, data = event
        if kind == "executing" and data["node"]:
            self.line(self.title(data["node"]))
        elif kind == "progress" and (data["value"] == data["max"] or time.monotonic() - self.printed > LINE_SECONDS):
            self.line(f"{self.title(data['node'])} {data['value']}/{data['max']}")

    def title(self, node: str) -> str:
        """Title of a node in the workflow."""
        content = self.prompt[node]
        title: str = content.get("_meta", {}).get("title", content["class_type"])
        return title

    def line(self, text: str) -> None:
        """Print a line with the seconds since the start, unless it repeats the last one."""
        self.printed = time.monotonic()
        if text != self.last:
            print(f"{self.printed - self.started:7.1f} s  {text}", flush=True)
        self.last = text


def summary(facts: dict[str, Any], setup: Setup) -> str:
    """Format the facts for people."""
    lines = [
        "",
        f"adapter                 {facts['adapter']}",
        f"keys matched            {facts['keys_matched']} of {facts['keys_total']}",
        f"effect of strength 1.0  {facts['effect']:.2f}",
        f"steps                   {facts['steps']}",
        f"held-out loss           {facts['heldout_first']:.4f} at first, {facts['heldout_last']:.4f} at last",
        f"generated audio         {facts['audio']}",
        f"took                    {facts['seconds']:.0f} s",
    ]
    if setup.embedded:
        lines.append("The embedded checkpoint has random weights, so its sound is noise: this run proves the path, not "
                     "the quality. Give --checkpoint and --audio to hear music.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
