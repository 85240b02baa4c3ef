"""Rules by which a training gives way."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any

import pytest

from tests.host.pack import pack_module

QUICK = {"1": {"class_type": "PreviewAny", "inputs": {}}}
TRAINS = {"1": {"class_type": "SideStepTrainAdapter", "inputs": {}}}
OWN = "own"


@pytest.fixture(scope="module")
def polite(comfy: ModuleType) -> ModuleType:
    import server

    server.PromptServer(asyncio.new_event_loop())
    return pack_module("nodes.host.polite")


def waiting(*prompts: Any) -> list[tuple[Any, ...]]:
    return [(number, f"id {number}", prompt, {}, []) for number, prompt in enumerate(prompts, 5)]


@pytest.mark.parametrize(("prompts", "expected"), [
    ([], None), ([TRAINS], None), ([TRAINS, QUICK], None), ([QUICK], 5.5), ([QUICK, QUICK], 6.5),
    ([QUICK, TRAINS], 5.5), ([QUICK, QUICK, TRAINS, QUICK], 6.5),
])
def test_number_precedes_next_training(polite: ModuleType, prompts: list[Any], expected: float | None) -> None:
    assert polite.queue_number(waiting(*prompts)) == expected
    assert polite.queue_number(waiting(*prompts)[::-1]) == expected


class Clock:
    now = 0.0


@pytest.fixture
def waits(polite: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Workflows that wait behind that of a training, whose id is OWN."""
    found: list[tuple[Any, ...]] = []
    monkeypatch.setattr(polite, "_waiting", lambda: found)
    monkeypatch.setattr(polite, "_own", lambda prompt_id: (1, prompt_id, TRAINS, {}, []))
    monkeypatch.setattr(polite.time, "monotonic", lambda: Clock.now)
    return found


def live_training(polite: ModuleType, run: str) -> Any:
    return polite.live.Live(run=run, node_id="1", controls=pack_module("sidestep_core.training.controls").Controls())


def test_request_follows_what_waits(polite: ModuleType, waits: list[tuple[Any, ...]]) -> None:
    training = live_training(polite, "first")
    with polite.giving_way(training, polite=True) as watch:
        watch()
        assert training.controls.pending == ()
        waits.extend(waiting(QUICK))
        watch()
        assert training.controls.pending == ("give_way",)
        waits.clear()
        watch()
        assert training.controls.pending == ()


def test_impolite_training_keeps_the_card(polite: ModuleType, waits: list[tuple[Any, ...]]) -> None:
    training = live_training(polite, "rude")
    waits.extend(waiting(QUICK))
    with polite.giving_way(training, polite=False) as watch:
        watch()
    assert training.controls.pending == ()


def test_second_time_takes_a_while(polite: ModuleType, waits: list[tuple[Any, ...]],
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    training = live_training(polite, "again")
    monkeypatch.setattr(polite, "_gave_way", {"again"})
    waits.extend(waiting(QUICK))
    with polite.giving_way(training, polite=True) as watch:
        watch()
        assert training.controls.pending == ()
        monkeypatch.setattr(Clock, "now", Clock.now + polite.SECONDS_BETWEEN)
        watch()
        assert training.controls.pending == ("give_way",)
