"""Several processes that train one adapter together: each takes its share of a step's forward passes.

The leader (rank 0) runs the loop: it measures, saves, publishes and decides.  The others follow its orders, one before
each step.  All of them add their gradients as one process would (see gradients.py), and take the same step.  Draws and
dropout are pure functions of the seed, the step and the number of the pass, so the samples are those of one process,
whatever the number of ranks.

Processes are started by torchrun, or by anything else that sets its environment variables.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor

from ...errors import SideStepError

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


@dataclass(frozen=True)
class Sent:
    """Numbers that are on their way to the other ranks, and those that come from them."""

    work: torch.distributed.Work
    numbers: Tensor
    """Kept until they are sent."""
    received_RS: Tensor

    def received(self) -> tuple[Tensor, ...]:
        """Wait for the others' numbers: one tensor from each rank."""
        with _lost():
            self.work.wait()
        return self.received_RS.unbind()


@dataclass(frozen=True)
class Ranks:
    """Position of this process among those of a training."""

    rank: int = 0
    count: int = 1
    carrier: torch.device | None = None
    """Device of the tensors that the processes exchange; None: the one that they are on."""

    @property
    def leads(self) -> bool:
        return self.rank == 0

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
        with _lost():
            torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def send_shares(self, numbers: Tensor) -> Sent:
        """Begin to send every rank its share of the numbers, a count that all of them divide."""
        sent = self._carried(numbers)
        received = torch.empty_like(sent)
        with _lost():
            work = torch.distributed.all_to_all_single(received, sent, async_op=True)
        return Sent(work, sent, received.view(self.count, -1))

    def gather(self, share: Tensor) -> Tensor:
        """Gather everyone's share, in the order of the ranks."""
        gathered = share.new_empty(self.count, len(share))
        with _lost():
            torch.distributed.all_gather([*gathered.unbind()], share)
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
        with _lost():
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
    torch.distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        _groups.append(torch.distributed.new_group(backend="gloo", timeout=PATIENCE))
        yield Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        _groups.clear()
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    """Turn the error of a broken connection into RankLost."""
    try:
        yield
    except RuntimeError as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise RankLost(f"Another process of this training has ended ({first[:200]}). Start all of them again: the run "
                       "continues from its last checkpoint.") from error
