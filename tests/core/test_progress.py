"""Progress and cancel in one channel."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from sidestep_core.errors import SideStepError
from sidestep_core.progress import Cancelled, Progress, ignore


def test_progress_cannot_be_changed_by_who_receives_it() -> None:
    progress = Progress(stage="train", step=1, total=2)
    with pytest.raises(FrozenInstanceError):
        progress.step = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        progress.metrics["loss"] = 1.0  # type: ignore[index]


def test_progress_says_nothing_that_was_not_said() -> None:
    assert dict(Progress(stage="load", step=0, total=1).metrics) == {}
    assert Progress(stage="load", step=0, total=1).message == ""


def test_cancelling_is_not_an_error_of_ours() -> None:
    """`except SideStepError` must let it pass, `except Exception` must not."""
    assert not issubclass(Cancelled, SideStepError)
    assert issubclass(Cancelled, Exception)


def test_a_report_that_nobody_reads_goes_on() -> None:
    ignore(Progress(stage="save", step=1, total=1, metrics={"loss": 1.0}))
