"""Forecast benchmark: what the panel says about time, against what trainings in a real ComfyUI then take.

Trainings of the demo's model and songs, each with a seed of its own, on the device of this machine.  `probe_error`: the
time of a step that the panel shows after two steps, against the mean of all later ones.  `left_error`: the time left
that it shows then, against the rest of the training.  `plan_error`: the time of the plan before a training, by the one
before, against all of its steps.  Each is the median over the trainings, as a share.  `spread`: the median distance of
a single step from their mean, which the probe, of a single step, cannot be better than; on a machine that does nothing
else it is small.
"""

from __future__ import annotations

import copy
import itertools
import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from demo.examples import PROMPT, SETTINGS, TRAINER
from demo.models import model_files, with_models
from demo.server import ComfyUI, Event
from demo.setup import BASE
from demo.synthetic_model import DEMO_MODEL
from tests.host.test_pipeline import node_of, upstream, with_inputs
from tests.running import demo_comfyui

STEPS = 40
ROUNDS = 5
PROBE = 2
"""Steps after which the panel knows the time of a step."""
SECONDS = 2.0
"""Length of each song and of a crop: then a step of four takes tenths of a second."""
TARGET = 0.15


@dataclass(frozen=True, kw_only=True)
class Training:
    """Seconds of a training."""

    shown: float
    """Of a step, on the panel after the probe."""
    left: float
    """Until the end, on the panel after the probe."""
    planned: float | None
    """Of all steps, before it began; None if that was not known."""
    step: float
    """Of a step after the probe, in the mean."""
    rest: float
    """From the probe to the end, by that mean."""
    spread: float
    """Median distance of a step from the mean, as a share of it."""


def prompt_of(seed: int) -> dict[str, Any]:
    """Make the prompt of a training without measurements, saves and previews, other than at its end."""
    demo = with_models(json.loads(PROMPT.read_text(encoding="utf-8")), model_files(BASE / "models" / DEMO_MODEL))
    changed = with_inputs(demo, {
        "SideStepPreprocessAudioFolder": {"dataset_name": "forecast", "max_seconds": SECONDS},
        TRAINER: {"max_steps": STEPS, "adapter_name": "forecast", "seed": seed},
        SETTINGS: {"gradient_accumulation": 4, "heldout_every": 1000, "save_every": 1000, "heldout_songs": "0"},
    })
    return copy.deepcopy(upstream(changed, TRAINER))


def trained(server: ComfyUI, seed: int) -> Training:
    """Plan and run a training."""
    prompt = prompt_of(seed)
    planned = server.post_json("/sidestep/plan", {"prompt": prompt, "node_id": node_of(prompt, TRAINER)})
    seen: dict[int, tuple[float, Mapping[str, float]]] = {}

    def listen(event: Event) -> None:
        kind, data = event
        if kind == "sidestep.progress" and data["stage"] == "train" and data["points"]:
            seen.setdefault(data["training"][0], (time.perf_counter(), data["metrics"]))

    outcome = server.wait(server.submit(prompt), on_event=listen)
    assert outcome.status == "success", outcome.exception_message
    probe = next(step for step in sorted(seen) if step >= PROBE)
    began, shown = seen[probe]
    last = max(seen)  # the last steps may be told together with what comes after them
    mean = (seen[last][0] - began) / (last - probe)
    lengths = [(seen[later][0] - seen[step][0]) / (later - step) for step, later in itertools.pairwise(sorted(seen))
               if step >= probe]
    return Training(spread=statistics.median(error(length, mean) for length in lengths), step=mean,
                    rest=mean * (STEPS - probe),
                    shown=shown["step_seconds"], left=shown["eta_seconds"], planned=planned.get("seconds"))


def error(predicted: float, actual: float) -> float:
    return abs(predicted / actual - 1)


def main() -> int:
    """Print each training and the JSON line; return 1 if a target is missed."""
    with TemporaryDirectory() as folder, demo_comfyui(Path(folder)) as server:
        found = [trained(server, seed) for seed in range(1, ROUNDS + 1)]
    for each in found:
        plan = "unknown" if each.planned is None else f"{each.planned:.1f} s"
        sys.stdout.write(f"step: shown {1000 * each.shown:.0f} ms, then {1000 * each.step:.0f} ms; left: shown "
                         f"{each.left:.1f} s, then {each.rest:.1f} s; plan of {STEPS} steps: {plan}\n")
    planned = [(each.planned, STEPS * each.step) for each in found if each.planned is not None]
    errors = {"probe_error": statistics.median(error(each.shown, each.step) for each in found),
              "left_error": statistics.median(error(each.left, each.rest) for each in found),
              "plan_error": statistics.median(error(*pair) for pair in planned),
              "spread": statistics.median(each.spread for each in found)}
    sys.stdout.write(json.dumps({name: round(value, 3) for name, value in errors.items()} | {
        "step_ms": round(1000 * statistics.median(each.step for each in found))}) + "\n")
    return int(errors["probe_error"] > TARGET or errors["plan_error"] > TARGET)


if __name__ == "__main__":
    sys.exit(main())
