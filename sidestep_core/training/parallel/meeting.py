"""Part of a store that only the processes of this start use.

torchrun gives the processes that it starts again the store of those before (torch 2.11), where the addresses of dead
processes still are: whoever reads them before they are replaced finds nobody.
"""

from __future__ import annotations

import secrets
import time
from typing import Protocol

import torch

POLL_SECONDS = 0.05


class Store(Protocol):
    """Words that several processes share, such as torch's TCPStore."""

    def set(self, key: str, value: str, /) -> None: ...

    def get(self, key: str, /) -> bytes: ...

    def check(self, keys: list[str], /) -> bool: ...


def fresh_part(store: Store, rank: int, count: int) -> Store:
    """Meet the other processes, however many that are dead by now have left their traces in the store."""
    token = _lead(store, count) if rank == 0 else _follow(store, rank)
    part: Store = torch.distributed.PrefixStore(token, store)  # type: ignore[attr-defined, arg-type]  # torch's
    return part


def _lead(store: Store, count: int) -> str:
    """Answer the newest greeting of each rank with a new word, until all have repeated it."""
    token = secrets.token_hex(8)
    while missing := [rank for rank in range(1, count) if not store.check([_repeated(token, rank)])]:
        for rank in missing:
            if store.check([_greeting(rank)]):
                store.set(_answer(store.get(_greeting(rank)).decode()), token)
        time.sleep(POLL_SECONDS)
    return token


def _follow(store: Store, rank: int) -> str:
    """Greet with a new word, and wait for the answer to it."""
    own = secrets.token_hex(8)
    store.set(_greeting(rank), own)
    token: str = store.get(_answer(own)).decode()
    store.set(_repeated(token, rank), "")
    return token


def _greeting(rank: int) -> str:
    return f"side-step/greeting/{rank}"


def _answer(word: str) -> str:
    return f"side-step/answer/{word}"


def _repeated(token: str, rank: int) -> str:
    return f"side-step/repeated/{token}/{rank}"
