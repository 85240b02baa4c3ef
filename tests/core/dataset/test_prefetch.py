"""One item ahead: in order, never two ahead, and no thread is left behind."""

from __future__ import annotations

import threading
import time

import pytest

from sidestep_core.dataset.prefetch import Tick, one_ahead


def nothing() -> None:
    pass


def threads() -> int:
    return sum(thread.name.startswith("one-ahead") for thread in threading.enumerate())


def test_everything_comes_in_order() -> None:
    with one_ahead(lambda item, tick: item * item, range(50)) as next_made:
        assert [next_made(nothing) for _ in range(50)] == [number**2 for number in range(50)]
    assert threads() == 0


def test_one_item_is_prefetched() -> None:
    begun: list[int] = []
    with one_ahead(lambda item, tick: begun.append(item), range(9)) as next_made:
        for number in range(8):
            next_made(nothing)
            ends = time.monotonic() + 10
            while begun != list(range(number + 2)) and time.monotonic() < ends:
                time.sleep(0.001)
            time.sleep(0.01)
            assert begun == list(range(number + 2))


def test_items_are_made_on_a_thread() -> None:
    with one_ahead(lambda item, tick: threading.get_ident(), [0]) as next_made:
        assert next_made(nothing) != threading.get_ident()


def test_exceptions_rise_in_take() -> None:
    def make(item: int, tick: Tick) -> float:
        return 1 / item

    with one_ahead(make, [1, 0, 1]) as next_made:
        assert next_made(nothing) == 1
        with pytest.raises(ZeroDivisionError):
            next_made(nothing)
    assert threads() == 0


def test_waiting_caller_can_leave() -> None:
    asked: list[None] = []

    def ask() -> None:
        asked.append(None)
        if len(asked) == 3:
            raise KeyboardInterrupt

    def make(item: int, tick: Tick) -> None:
        while True:
            tick()
            time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt), one_ahead(make, [0, 1]) as next_made:
        next_made(ask)
    assert threads() == 0


def test_leaving_early_stops_work() -> None:
    begun: list[int] = []
    with one_ahead(lambda item, tick: begun.append(item), range(100)) as next_made:
        next_made(nothing)
    assert begun in ([0], [0, 1])
    assert threads() == 0


def test_of_nothing_nothing_is_made() -> None:
    with one_ahead(lambda item, tick: item, []):
        pass
    assert threads() == 0
