"""Processes of one training, forked from one that has imported everything, so that they start at once."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

IMPORTED = ["peft", "sidestep_core.training.train", "tests.training"]


def start(count: int, log: Path, work: Callable[..., None], *arguments: object) -> Sequence[BaseProcess]:
    """Start so many ranks that do the work; what each prints goes to `log`-N.txt."""
    context = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(IMPORTED)
    port = free_port()
    processes = [context.Process(target=_rank, args=(rank, count, port, log, work, arguments)) for rank in range(count)]
    for process in processes:
        process.start()
    return processes


def finish(processes: Sequence[BaseProcess], seconds: float) -> list[int | None]:
    """Wait for the processes, and return their exit codes.  One that hangs is killed."""
    try:
        for process in processes:
            process.join(seconds)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def printed(log: Path, rank: int) -> str:
    """Return what a rank has printed."""
    return log.with_name(f"{log.name}-{rank}.txt").read_text(encoding="utf-8")


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _rank(rank: int, count: int, port: int, log: Path, work: Callable[..., None], arguments: Sequence[object]) -> None:
    import torch

    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                       "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.with_name(f"{log.name}-{rank}.txt").open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # The same sums in every process, however many there are.
    torch.set_num_threads(1)
    work(*arguments)
