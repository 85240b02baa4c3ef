"""End of a run, decided by its settings and its saved state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidestep_core.errors import ConfigError
from sidestep_core.training.config import ResolvedConfig
from sidestep_core.training.early_stopping import check, ended, got_worse
from sidestep_core.training.run_checkpoint import RunState
from tests.training import settled


def after(*losses: float) -> RunState:
    """State of a run that measured these losses, one per step, the base model first."""
    state = RunState()
    for step, loss in enumerate(losses):
        state = replace(state, step=step).with_heldout(loss)
    return state


@pytest.mark.parametrize(("patience", "losses", "stops"), [
    (2, (5, 3, 3.1, 3.2), True), (2, (5, 3, 3.1), False), (2, (5, 3, 3.1, 2.9, 3.2), False), (2, (5, 3, 3, 3), True),
    (0, (5, 3, 4, 4, 4, 4), False), (1, (5, 6), False), (1, (5, 6, 7), True), (2, (1, 3, 2, 1.5), False),
])  # fmt: skip
def test_early_stopping_counts_stale_losses(patience: int, losses: tuple[float, ...], stops: bool) -> None:
    """Only losses of a trained adapter count, not the base model's."""
    found = ended(settled(early_stopping=patience), after(*losses), 100)
    assert bool(found) == stops
    assert not stops or "early_stopping" in found


@pytest.mark.parametrize(("target", "losses", "stops"), [
    (3.0, (5, 2, 1), False), (3.0, (5, 2, 2), True), (3.0, (5, 2, 2.5), True), (3.0, (5, 4, 4), False),
    (3.0, (5, 2, 3.5), False), (3.0, (2,), False), (0.0, (0, 0, 0), False),
])  # fmt: skip
def test_target_loss_must_stop_falling(target: float, losses: tuple[float, ...], stops: bool) -> None:
    found = ended(settled(target_loss=target), after(*losses), 100)
    assert bool(found) == stops
    assert not stops or "target_loss" in found


def test_run_ends_after_last_step() -> None:
    assert ended(settled(), replace(RunState(), step=99), 100) == ""
    assert ended(settled(), replace(RunState(), step=100), 100) == "All 100 steps are done."


@pytest.mark.parametrize(("config", "named"), [(settled(early_stopping=4), "early_stopping 4 judge"),
                                               (settled(publish="best"), "publish best judge"),
                                               (settled(target_loss=0.5), r"target_loss 0\.5 judge"),
                                               (settled(early_stopping=4, publish="best"),
                                                "early_stopping 4 and publish best judge")])
def test_judging_needs_heldout_songs(config: ResolvedConfig, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"{named}.*no song is held out\. Set heldout_songs"):
        check(config)
    check(replace(config, heldout_songs=1))
    check(settled())


def test_worse_adapter_is_reported() -> None:
    told = got_worse(settled(learning_rate=1.0), after(2.0, 1.5, 3.0))
    assert "was 2 before training and is 3 after step 2" in told
    assert "learning rate, which is 1 " in told
    assert "Choose optimizer adamw" in got_worse(settled(optimizer="prodigy"), after(2.0, 3.0))
    assert got_worse(settled(), after(2.0, 1.5, 2.1)) == got_worse(settled(), RunState()) == ""
