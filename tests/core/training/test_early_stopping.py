"""When a run ends: what was asked decides, from numbers that a resumed run has too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidestep_core.errors import ConfigError
from sidestep_core.training.config import TrainConfig
from sidestep_core.training.early_stopping import check, ended, got_worse
from sidestep_core.training.run_checkpoint import RunState


def after(*losses: float) -> RunState:
    """A run that measured these, one per step, the base model first."""
    state = RunState()
    for step, loss in enumerate(losses):
        state = replace(state, step=step).with_heldout(loss)
    return state


@pytest.mark.parametrize(("patience", "losses", "stops"), [
    (2, (5, 3, 3.1, 3.2), True), (2, (5, 3, 3.1), False), (2, (5, 3, 3.1, 2.9, 3.2), False), (2, (5, 3, 3, 3), True),
    (0, (5, 3, 4, 4, 4, 4), False), (1, (5, 6), False), (1, (5, 6, 7), True), (2, (1, 3, 2, 1.5), False),
])  # fmt: skip
def test_early_stopping_waits_for_a_new_lowest(patience: int, losses: tuple[float, ...], stops: bool) -> None:
    """Of a trained adapter: the base model's own loss is none to choose."""
    found = ended(TrainConfig(early_stopping=patience), after(*losses), 100)
    assert bool(found) == stops
    assert not stops or "early_stopping" in found


@pytest.mark.parametrize(("target", "losses", "stops"), [
    (3.0, (5, 2, 1), False), (3.0, (5, 2, 2), True), (3.0, (5, 2, 2.5), True), (3.0, (5, 4, 4), False),
    (3.0, (5, 2, 3.5), False), (3.0, (2,), False), (0.0, (0, 0, 0), False),
])  # fmt: skip
def test_the_target_must_be_reached_and_the_loss_no_longer_fall(target: float, losses: tuple[float, ...],
                                                                stops: bool) -> None:
    found = ended(TrainConfig(target_loss=target), after(*losses), 100)
    assert bool(found) == stops
    assert not stops or "target_loss" in found


def test_a_run_ends_after_its_last_step() -> None:
    assert ended(TrainConfig(), replace(RunState(), step=99), 100) == ""
    assert ended(TrainConfig(), replace(RunState(), step=100), 100) == "All 100 steps are made."


@pytest.mark.parametrize(("config", "named"), [(TrainConfig(early_stopping=4), "early_stopping 4 judge"),
                                               (TrainConfig(publish="best"), "publish best judge"),
                                               (TrainConfig(target_loss=0.5), r"target_loss 0\.5 judge"),
                                               (TrainConfig(early_stopping=4, publish="best"),
                                                "early_stopping 4 and publish best judge")])
def test_without_held_out_songs_there_is_no_judge(config: TrainConfig, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"{named}.*no song is held out\. Set heldout_songs"):
        check(config, 0)
    check(config, 1)
    check(TrainConfig(), 0)


def test_an_adapter_that_makes_the_model_worse_is_told() -> None:
    told = got_worse(TrainConfig(learning_rate=1.0), after(2.0, 1.5, 3.0))
    assert "was 2 before training and is 3 after step 2" in told
    assert "learning rate, which is 1 " in told
    assert "Choose optimizer adamw" in got_worse(TrainConfig(optimizer="prodigy"), after(2.0, 3.0))
    assert got_worse(TrainConfig(), after(2.0, 1.5, 2.1)) == got_worse(TrainConfig(), RunState()) == ""
