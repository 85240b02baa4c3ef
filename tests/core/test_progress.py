"""Progress and cancellation in one channel."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from sidestep_core.errors import SideStepError
from sidestep_core.progress import Cancelled, Progress, ignore


def test_progress_is_frozen() -> None:
    progress = Progress(stage="train", step=1, total=2)
    with pytest.raises(FrozenInstanceError):
        progress.step = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        progress.metrics["loss"] = 1.0  # type: ignore[index]


def test_progress_defaults_are_empty() -> None:
    assert dict(Progress(stage="load", step=0, total=1).metrics) == {}
    assert Progress(stage="load", step=0, total=1).message == ""


def test_cancelled_is_no_error() -> None:
    """`except SideStepError` must let it pass, `except Exception` must not."""
    assert not issubclass(Cancelled, SideStepError)
    assert issubclass(Cancelled, Exception)


def test_ignored_report_continues() -> None:
    ignore(Progress(stage="save", step=1, total=1, metrics={"loss": 1.0}))
