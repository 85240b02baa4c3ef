"""End of a run: after its last step, or earlier by its held-out losses or by hand."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from ..sentence import Sentence
from .config import ResolvedConfig
from .heldout import material
from .run_checkpoint import RunState

MUCH_WORSE = 1.25
"""Multiple of the loss before training.  Memorised songs raise the held-out loss too, but by less."""


def check(config: ResolvedConfig) -> None:
    """Raise ConfigError if settings need held-out songs and there are none.

    Songs that are trained on fit ever better: their loss would neither stop a run in time nor choose its best adapter.
    """
    asked = material.asks(config)
    if asked and not config.heldout_songs and not config.heldout_sections:
        raise ConfigError(f"{' and '.join(asked)} judge(s) by songs that are not trained on, but no song is held out. "
                          "Set heldout_songs to 1 or more (automatic holds out one song in ten, or the ends of songs "
                          "of 20 s or more), or set early_stopping and target_loss to 0 and publish to last.")


@dataclass(frozen=True)
class End:
    """Reason to end a run."""

    reason: str
    by_hand: bool = False
    """True for an end on request: the run can still take the steps that it did not take."""


def end(config: ResolvedConfig, state: RunState, total: int, *, requested: bool) -> End | None:
    """End of the run by its settings, or on request; None while it goes on."""
    if reason := ended(config, state, total):
        return End(reason)
    by_hand = Sentence("Finished by hand after step {step} of {total}.", step=state.step, total=total)
    return End(by_hand, by_hand=True) if requested else None


def ended(config: ResolvedConfig, state: RunState, total: int) -> str:
    """Reason to end the run; empty while it goes on.  A pure function of the state, so a resumed run ends there too."""
    if config.early_stopping and state.stale >= config.early_stopping:
        return (f"early_stopping: {state.stale} held-out losses in a row were not lower than that of step "
                f"{state.reference_step}, {state.reference_loss:.4f}, by more than their error.")
    last, before = state.heldout_last, state.heldout_before
    reached = config.target_loss > 0 and last is not None and last <= config.target_loss
    if reached and before is not None and last is not None and last >= before:
        return (f"target_loss: the held-out loss is {last:.4f}, no higher than {config.target_loss:g}, and no longer "
                f"falls.")
    return Sentence("All {total} steps are done.", total=total) if state.step >= total else ""


def got_worse(config: ResolvedConfig, state: RunState) -> str:
    """Warning for a run that unlearns; empty unless its measured loss is far above that before training."""
    first, last = state.heldout_first, state.heldout_last
    if first is None or last is None or last <= MUCH_WORSE * first:
        return ""
    advice = ("Choose optimizer adamw" if config.optimizer == "prodigy" else
              f"Lower the learning rate, which is {config.learning_rate:g} (0.0001 is usual)")
    return (f"The adapter makes the model worse: the measured loss was {first:.3g} before training and is {last:.3g} "
            f"after step {state.heldout_step}. {advice}, or take fewer steps.")
