"""Several processes that train one adapter together: each takes its share of a step's forward passes.

The leader (rank 0) runs the loop: it measures, saves, publishes and decides.  The others follow its orders, one before
each step.  All of them add their gradients as one process would (see gradients.py), and take the same step.  Draws and
dropout are pure functions of the seed, the step and the number of the pass, so the samples are those of one process,
whatever the number of ranks.

Processes are started by torchrun, by anything else that sets its environment variables, or by launch.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import SideStepError
from .meeting import fresh_part

PATIENCE = timedelta(days=7)
"""Longest wait for another rank: the leader may measure, preview or pause; one that dies is noticed at once."""
END, RELEASE, BEGIN = -1, -2, -3
"""Orders other than a step: the run is over; let go of everything; the files that are needed next are there."""


class RankLost(SideStepError):
    """Another process of the training has ended."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Order of the leader: the step to take and its loss scale, or END, RELEASE or BEGIN."""

    step: int
    scale: float = 1.0


def _start_all_again(error: RuntimeError) -> RankLost:
    """Make the error of a rank that torchrun started and that has ended."""
    first = (str(error).strip().splitlines() or [""])[0]
    return RankLost(f"Another process of this training has ended ({first[:200]}). Start all of them again: the run "
                    "continues from its last checkpoint.")


Explain = Callable[[RuntimeError], RankLost]
"""Makes the error of a rank that has ended, from that of the broken connection."""


@dataclass(frozen=True)
class Sent:
    """Numbers that are on their way to the other ranks, and those that come from them."""

    work: torch.distributed.Work
    numbers: Tensor
    """Kept until they are sent."""
    received_RS: Tensor
    explain: Explain

    def received(self) -> tuple[Tensor, ...]:
        """Wait for the others' numbers: one tensor from each rank."""
        with _lost(self.explain):
            self.work.wait()
        return self.received_RS.unbind()


@dataclass(frozen=True)
class Ranks:
    """Position of this process among those of a training."""

    rank: int = 0
    count: int = 1
    carrier: torch.device | None = None
    """Device of the tensors that the processes exchange; None: the one that they are on."""
    explain: Explain = _start_all_again

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def travelling(self) -> int:
        """Number of gradients, of all trained numbers, that are on the device for the others during a pass."""
        return 2 if self.count > 1 and self.carrier is None else 0

    def takes(self, number: int) -> bool:
        """Return True if the forward pass of this number, in its step, is this rank's."""
        return number % self.count == self.rank

    def give(self, order: Order) -> None:
        """Give an order to the others."""
        if self.count > 1:
            self._broadcast(torch.tensor([order.step, order.scale], dtype=torch.float64))

    def take(self) -> Order:
        """Wait for an order.  RankLost if the leader has ended."""
        step, scale = self._broadcast(torch.zeros(2, dtype=torch.float64)).tolist()
        return Order(step=int(step), scale=scale)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one kind by their sums over all ranks, in one all-reduce."""
        if self.count == 1 or not tensors:
            return
        flat = self._carried(torch.cat([tensor.flatten() for tensor in tensors]))
        with _lost(self.explain):
            torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def send_shares(self, numbers: Tensor) -> Sent:
        """Begin to send every rank its share of the numbers, a count that all of them divide."""
        sent = self._carried(numbers)
        received = torch.empty_like(sent)
        with _lost(self.explain):
            work = torch.distributed.all_to_all_single(received, sent, async_op=True)
        return Sent(work, sent, received.view(self.count, -1), self.explain)

    def gather(self, share: Tensor) -> Tensor:
        """Gather everyone's share, in the order of the ranks."""
        carried = self._carried(share)
        gathered = carried.new_empty(self.count, len(carried))
        with _lost(self.explain):
            torch.distributed.all_gather([*gathered.unbind()], carried)
        return gathered.flatten()

    def _carried(self, numbers: Tensor) -> Tensor:
        return numbers if self.carrier is None else numbers.to(self.carrier)

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        """Let the others enter the block once the leader has left it: then its files are there."""
        if not self.leads:
            self.take()
        yield
        if self.leads:
            self.give(Order(step=BEGIN))

    def _broadcast(self, values: Tensor) -> Tensor:
        with _lost(self.explain):
            torch.distributed.broadcast(values, src=0, group=_orders())
        return values


ALONE = Ranks()
"""One process, which waits for nobody."""

_groups: list[torch.distributed.ProcessGroup] = []


def _orders() -> torch.distributed.ProcessGroup | None:
    """Group of the orders, on the CPU, so that a wait keeps no device busy."""
    return _groups[0] if _groups else None


def started_by_launcher() -> bool:
    """Return True in a process that torchrun started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_rank() -> int:
    """Number of this process on its machine, which is the number of its device."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def own_device(device: torch.device) -> torch.device:
    """Return the device of this process: of several, each has its own of the machine's."""
    shared = device.type == "cpu" or not started_by_launcher()
    return device if shared else torch.device(device.type, local_rank())


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that the launcher started, for the block: nccl on CUDA, xccl on XPU, gloo elsewhere."""
    if not started_by_launcher():
        yield ALONE
        return
    backend = {"cuda": "nccl", "xpu": "xccl"}.get(device.type, "gloo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    meeting = torch.distributed.rendezvous  # type: ignore[attr-defined]  # torch's export
    store, rank, count = next(meeting("env://", timeout=PATIENCE))
    with _connected(backend, store=fresh_part(store, rank, count), rank=rank, world_size=count):
        yield Ranks(rank, count)


@contextlib.contextmanager
def joined_here(meeting: Path, rank: int, count: int, explain: Explain = _start_all_again) -> Iterator[Ranks]:
    """Join the processes of this machine that meet at a new file, for the block.

    By gloo, which carries tensors through the computer's memory: it runs on every system, and notices at once that a
    process is gone, where the kernels of nccl would wait for ever.
    """
    store = torch.distributed.FileStore(str(meeting), count)  # type: ignore[attr-defined]  # torch's export
    with _connected("gloo", store=store, rank=rank, world_size=count):
        yield Ranks(rank, count, torch.device("cpu"), explain)


@contextlib.contextmanager
def _connected(backend: str, **meeting: Any) -> Iterator[None]:
    torch.distributed.init_process_group(backend, timeout=PATIENCE, **meeting)
    try:
        _groups.append(torch.distributed.new_group(backend="gloo", timeout=PATIENCE))
        yield
    finally:
        _groups.clear()
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _lost(explain: Explain) -> Iterator[None]:
    """Turn the error of a broken connection into RankLost."""
    try:
        yield
    except RuntimeError as error:
        raise explain(error) from error
