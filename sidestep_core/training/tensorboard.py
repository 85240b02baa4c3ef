"""Curves for TensorBoard, in the run's folder `tensorboard`, written through torch; the package is optional."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import optional
from .config import ResolvedConfig
from .metrics import MeasuredOn

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER = "tensorboard"
TAGS: Mapping[MeasuredOn, str] = {"held_out": "heldout", "trained": "trained_songs"}

log = logging.getLogger(__name__)


class Board:
    """Writer of the entries that are due after a step; steps count from 1."""

    def __init__(self, writer: SummaryWriter, config: ResolvedConfig) -> None:
        self._writer = writer
        self._config = config
        self._times: list[float] = []

    def add_step(self, step: int, numbers: Mapping[str, float], times: Sequence[float],
                 layer_gradients: Mapping[str, float]) -> None:
        """Write loss and learning rate every log_every steps, and the larger entries every log_heavy_every steps.

        These are the gradient norm per layer, and a histogram of all samples' times since the last one (or since the
        run was resumed).
        """
        self._times += times
        if step % self._config.log_every == 0:
            self._writer.add_scalar("train/loss", numbers["loss"], step)
            self._writer.add_scalar("train/lr", numbers["lr"], step)
        if is_heavy(self._config, step):
            for layer, norm in layer_gradients.items():
                self._writer.add_scalar(f"gradients/{layer}", norm, step)
            self._writer.add_histogram("train/timestep_distribution", self._array(), step)
            self._times = []

    def add_heldout(self, row: Mapping[str, float], measured_on: MeasuredOn) -> None:
        """Write a row of `Metrics.add_heldout`, as heldout/heldout_t0.5 or trained_songs/trained_songs_t0.5."""
        name = TAGS[measured_on]
        for key, value in row.items():
            if key != "step":
                self._writer.add_scalar(f"{name}/{key.replace('heldout', name)}", value, int(row["step"]))

    def _array(self) -> object:
        import torch

        return torch.tensor(self._times)


def written(write: Callable[[], None]) -> str:
    """Write to the board; return a message if that fails, as a curve must never end a training."""
    try:
        write()
    except Exception as error:  # noqa: BLE001 (its writer is a thread, and raises what that died of)
        log.warning("TensorBoard's file was not written.", exc_info=True)
        return f"TensorBoard's file cannot be written ({error}). Training goes on without it."
    return ""


def is_heavy(config: ResolvedConfig, step: int) -> bool:
    """Return True if TensorBoard gets its larger entries after this step (1-based)."""
    return config.tensorboard and step % config.log_heavy_every == 0


@contextlib.contextmanager
def board(folder: Path, config: ResolvedConfig, after_step: int) -> Iterator[Board | None]:
    """Open the board that writes into `folder`; None if the setting is off.

    Entries of a stopped run after `after_step`, from which it resumes, are marked as void.
    """
    if not config.tensorboard:
        yield None
        return
    with optional.imports("tensorboard", "The setting tensorboard", "; or switch that setting off"):
        from torch.utils.tensorboard import SummaryWriter
    # Before the first step there is a held-out loss of step 0 too, which will be measured again.
    writer = SummaryWriter(folder, purge_step=after_step + 1 if after_step else 0)
    try:
        yield Board(writer, config)
    finally:
        written(writer.close)
