"""Measured time of a step, by its shape and device, so that the next training of that shape is known before it begins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

from ...adapters.config import AdapterConfig
from ...io import atomic, strict_json
from ...io.record import parse
from ...progress import Progress, Report
from ..config import TrainConfig

log = logging.getLogger(__name__)

MOST = 200
"""Number of shapes that are kept, the latest."""
MAX_BYTES = 1_000_000
FIRST = (2, 10)
"""Steps of a run after which its pace is kept: of a short one too, and again when single steps weigh less."""
EVERY = 50
"""Steps between two later writes."""


def shape(device: str, size: str, adapter: AdapterConfig, config: TrainConfig, seconds: float) -> str:
    """Key of the steps that take equally long: device, model, adapter, crop (or the mean song), batch, recomputation,
    form of the weights, number of devices, compilation.
    """
    crop = min(config.chunk_duration or seconds, seconds)
    samples = f"{config.batch_size} x {config.gradient_accumulation}"
    # Left out where they are the usual ones, so that times measured before count.
    usual = (config.base_precision, "as_file"), (config.offload, "auto"), (config.devices, "one")
    others = [str(value) for value, default in usual if value != default]
    others += [] if config.compile == "off" else [f"compile {config.compile}"]
    return "/".join((device, size, adapter.kind, f"{crop:.0f} s", samples, config.precision,
                     config.gradient_checkpointing, *others))


def read(file: Path) -> Mapping[str, float]:
    """Read the seconds of each shape; none if there is no file, or it is damaged."""
    if not file.is_file():
        return {}
    try:
        times = parse(strict_json.read(file, max_bytes=MAX_BYTES), dict[str, float], file.name)
    except (OSError, strict_json.BadJson) as error:
        log.warning("%s is not used, and replaced after the next training: %s", file.name, error)
        return {}
    return {key: seconds for key, seconds in times.items() if math.isfinite(seconds) and seconds > 0}


def remember(file: Path, key: str, seconds: float) -> None:
    """Keep the seconds of a shape.  A file that cannot be written never ends a training."""
    times = {**{other: value for other, value in read(file).items() if other != key}, key: seconds}
    try:
        atomic.write_json(file, dict([*times.items()][-MOST:]))
    except OSError as error:
        log.warning("The time of a step could not be kept in %s: %s", file.name, error)


def remembering(report: Report, file: Path, key: str) -> Report:
    """Pass reports on, and keep the time of a step: from the second one on, as the first is slower."""
    steps = 0

    def reported(progress: Progress) -> None:
        nonlocal steps
        seconds = progress.metrics.get("step_seconds")
        if seconds is not None:
            steps += 1
            if steps in FIRST or steps % EVERY == 0:
                remember(file, key, seconds)
        report(progress)

    return reported
