"""Verification of the demo's results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np

from .models import DemoError, read_header
from .server import Prompt

EFFECT_TOLERANCE = 0.005
"""Largest deviation of the effect of strength 1.0 from 1."""
LENGTH_TOLERANCE = 0.1
"""Seconds; latent frames (1/25 s) and the frames of audio formats round."""
QUIETEST = 1e-3
"""Lowest peak that is not silence, as a share of full scale."""


def verify(prompt: Prompt, outputs: Mapping[str, Mapping[str, Any]], place: Callable[[str], Path]) -> dict[str, Any]:
    """Check every fact of the run and return them; `place` finds the file behind `loras/...` and `output/...`.

    Raises DemoError listing every wrong fact."""
    trained, applied = report(prompt, outputs, "SideStepTrainAdapter"), report(prompt, outputs, "SideStepApplyAdapter")
    keys = ("adapter", "keys_matched", "keys_total", "effect", "steps", "heldout_first", "heldout_last")
    facts = {key: trained[key] for key in keys}
    facts |= {"adapter": str(place(trained["adapter"])), "audio": str(place(audio_file(outputs)))}
    asked_steps = value_of(prompt, "SideStepTrainAdapter", "max_steps")
    asked_seconds = value_of(prompt, "EmptyAceStep1.5LatentAudio", "seconds")
    seconds, peak = decode(Path(facts["audio"]))
    first, last = facts["heldout_first"], facts["heldout_last"]
    tensors = [name for name in read_header(Path(facts["adapter"])) if name != "__metadata__"]
    problems = {
        f"{facts['adapter']} holds {len(tensors)} tensors": not tensors,
        f"{facts['keys_matched']} of {facts['keys_total']} keys matched when the adapter was saved":
            not 0 < facts["keys_matched"] == facts["keys_total"],
        f"{applied['matched']} of {applied['total']} keys matched when the adapter was applied":
            not 0 < applied["matched"] == applied["total"],
        f"strength 1.0 has an effect of {facts['effect']}, not 1": not abs(facts["effect"] - 1) <= EFFECT_TOLERANCE,
        f"{facts['steps']} steps were trained, {asked_steps} were asked for": facts["steps"] != asked_steps,
        f"the held-out losses are {first} and {last}": not (finite(first) and finite(last) and first != last),
        f"{facts['audio']} lasts {seconds:.2f} s, {asked_seconds} s were asked for":
            abs(seconds - asked_seconds) > LENGTH_TOLERANCE,
        f"{facts['audio']} is silent (peak {peak})": not peak >= QUIETEST,
    }
    wrong = [problem for problem, holds in problems.items() if holds]
    if wrong:
        raise DemoError("The run ended, but its result is wrong: " + "; ".join(wrong) + ".")
    return facts


def report(prompt: Prompt, outputs: Mapping[str, Mapping[str, Any]], class_type: str) -> dict[str, Any]:
    """Report of the node of that class."""
    [node] = [node for node, content in prompt.items() if content["class_type"] == class_type]
    if "sidestep" not in outputs.get(node, {}):
        raise DemoError(f"Node {node} ({class_type}) reported nothing.")
    facts: dict[str, Any] = outputs[node]["sidestep"][0]
    return facts


def audio_file(outputs: Mapping[str, Mapping[str, Any]]) -> str:
    """Path of the file that the workflow's save node wrote, as `output/...`."""
    saved = [file for output in outputs.values() for file in output.get("audio", []) if file["type"] == "output"]
    if len(saved) != 1:
        raise DemoError(f"The workflow saved {len(saved)} audio files instead of one.")
    return "/".join(part for part in ("output", saved[0]["subfolder"], saved[0]["filename"]) if part)


def value_of(prompt: Prompt, class_type: str, key: str) -> Any:
    """Look up a setting of the workflow."""
    [value] = [node["inputs"][key] for node in prompt.values() if node["class_type"] == class_type]
    return value


def decode(path: Path) -> tuple[float, float]:
    """Decode an audio file to its length in seconds and its peak (1 is full scale; nan if any value is)."""
    planar = av.AudioResampler(format="fltp")
    with av.open(str(path)) as container:
        frames = [part for frame in container.decode(audio=0) for part in planar.resample(frame)]
    samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    return samples.shape[1] / frames[0].sample_rate, float(np.abs(samples).max())


def finite(value: object) -> bool:
    """True for a number that is neither nan nor infinite."""
    return isinstance(value, (int, float)) and math.isfinite(value)
