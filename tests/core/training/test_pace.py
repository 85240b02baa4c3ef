"""The time left is steps at their own pace, and what is done between them at its own cost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sidestep_core.training.pace import Pace, Work
from tests.training import settled

CONFIG = settled(max_steps=80, heldout_every=20, save_every=30, preview_every=40)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Iterator[Pace]:
    return Pace(CONFIG, 80, clock=clock)


def spend(pace: Pace, clock: Clock, work: Work, seconds: float) -> None:
    with pace.measured(work):
        clock.now += seconds


def test_nothing_measured_is_nothing_left(pace: Pace) -> None:
    assert pace.seconds_left(0) == 0


def test_previews_are_timed_separately(pace: Pace, clock: Clock) -> None:
    for _ in range(41):
        spend(pace, clock, "step", 2.0)
    spend(pace, clock, "preview", 300.0)
    assert pace.seconds_left(41) == 39 * 2.0 + 300.0
    assert pace.seconds_left(80) == 0


def test_one_slow_step_changes_little(pace: Pace, clock: Clock) -> None:
    for seconds in (2.0, 2.0, 500.0, 2.0):
        spend(pace, clock, "step", seconds)
    assert pace.seconds_left(4) == 76 * 2.0


def test_all_that_is_due_counts(pace: Pace, clock: Clock) -> None:
    spend(pace, clock, "step", 1.0)
    spend(pace, clock, "heldout", 10.0)
    spend(pace, clock, "save", 100.0)
    assert pace.seconds_left(50) == 30 * 1.0 + 2 * 10.0 + 2 * 100.0
    assert pace.seconds_left(79) == 1.0 + 10.0 + 100.0


def test_what_failed_is_not_measured(pace: Pace, clock: Clock) -> None:
    def fail() -> None:
        with pace.measured("step"):
            clock.now += 9
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert pace.seconds_left(1) == 0


def test_first_step_is_no_measure(pace: Pace, clock: Clock) -> None:
    """It allocates and chooses kernels."""
    spend(pace, clock, "step", 30.0)
    assert (pace.step_seconds, pace.is_warm) == (30.0, False)
    spend(pace, clock, "step", 2.0)
    assert (pace.step_seconds, pace.is_warm) == (2.0, True)
    assert pace.seconds_left(2) == pytest.approx(78 * 2.0, rel=0.15)
