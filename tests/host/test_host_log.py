"""The host's log as an answer: of this thread alone, at whatever level, and left as it was."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks import effect
from benchmarks._writers import lycoris
from sidestep_core.io.tensors import read_tensors, write_tensors
from tests.host.pack import pack_module

LEVELS = (logging.DEBUG, logging.WARNING, logging.ERROR, logging.CRITICAL)


class Seen(logging.Handler):
    """Records that reach the log."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def host_log(comfy: ModuleType) -> ModuleType:
    return pack_module("nodes.host.log")


@pytest.fixture(params=LEVELS)
def seen(request: pytest.FixtureRequest) -> Iterator[Seen]:
    """The root logger at each level that `--verbose` can set; afterwards it must be as it was."""
    root, handler = logging.getLogger(), Seen()
    level, filters = root.level, list(root.filters)
    root.addHandler(handler)
    root.setLevel(request.param)
    yield handler
    assert (root.level, root.filters) == (request.param, filters)
    root.removeHandler(handler)
    root.setLevel(level)


def complain() -> str:
    logging.warning("lora key not loaded: %s", "x.rescale")
    return "done"


def test_warning_gives_no_answer(host_log: Any, seen: Seen) -> None:
    assert host_log.answer(lambda: "done") == "done"
    assert host_log.answer(complain) is None
    assert "lora key not loaded: x.rescale" not in seen.messages


def test_host_error_gives_no_answer(host_log: Any, seen: Seen) -> None:
    assert host_log.answer(lambda: [][3]) is None


@pytest.mark.parametrize("error", [MemoryError("full"), RuntimeError("out of memory"), KeyboardInterrupt()])
def test_other_errors_are_raised(host_log: Any, seen: Seen, error: BaseException) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        host_log.answer(fail)


def test_other_threads_are_still_logged(host_log: Any, seen: Seen) -> None:
    def beside() -> str:
        for level in LEVELS:
            other = threading.Thread(target=logging.log, args=(level, "of level %d", level))
            other.start()
            other.join()
        return "done"

    shown = logging.getLogger().level
    assert host_log.answer(beside) == "done"
    assert [message for message in seen.messages if message.startswith("of level")] == [
        f"of level {level}" for level in LEVELS if level >= shown]


def test_threads_collect_their_own_warnings(host_log: Any, seen: Seen) -> None:
    found: dict[int, object] = {}
    threads = [threading.Thread(target=lambda number=number: found.__setitem__(
        number, host_log.answer(complain if number % 2 else lambda: "done"))) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: None if number % 2 else "done" for number in range(8)}


def test_log_level_hides_no_notice(host_log: Any, seen: Seen, tmp_path: Any) -> None:
    """Tensor that the host does not know: it logs that and applies the rest of the module."""
    model = effect.host_model("2B")
    made = lycoris(tmp_path, effect.decoder_weights(model), "glora")
    name = next(name for name in read_tensors(made.path) if name.endswith("a1.weight"))
    write_tensors(made.path, read_tensors(made.path) | {name.replace("a1.weight", "bm.weight"): torch.ones(4, 4)})
    told: list[str] = []
    _, matched, total = pack_module("nodes.host.models").patch(model, made.path, 1.0, notify=told.append)
    assert (matched, total) == (15, 16)
    assert "1 not used" in told[0]
