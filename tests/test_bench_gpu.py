"""Benchmark on a card, as far as it goes without one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import HEADER, LAYERS, Result, mfu, work_of
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.model.decoder import DecoderGeometry
from sidestep_core.training.memory import Batch

CPU = torch.device("cpu")
SIZE = DecoderGeometry(width=64, layers=LAYERS, heads=4, kv_heads=2, head_width=16, mlp=128, condition_width=32,
                       in_channels=192, out_channels=64, patch=2)
BATCH = Batch(samples=1, frames=60, tokens=7, bytes=2, dropout=False, gpu=True)
CONFIG = LoraConfig(rank=4, alpha=4.0, dropout=0.0)


def products() -> float:
    """Operations of the frozen products of one layer, forward and for the gradients of their inputs."""
    positions, queries, keys = BATCH.frames // SIZE.patch, SIZE.heads * SIZE.head_width, SIZE.kv_heads * SIZE.head_width
    outputs = 4 * queries + 2 * keys + 3 * SIZE.mlp
    return 2 * 2 * SIZE.width * (positions * outputs + BATCH.tokens * 2 * keys)


def test_work_is_that_of_products() -> None:
    """A small adapter and the attentions add less than half."""
    found = work_of(SIZE, CONFIG, BATCH, CPU) / LAYERS
    assert products() < found < 1.5 * products()
    assert work_of(replace(SIZE, layers=3 * LAYERS), CONFIG, BATCH, CPU) == 3 * LAYERS * found
    assert work_of(SIZE, CONFIG, replace(BATCH, frames=120), CPU) > 1.8 * LAYERS * found


def test_mfu_is_work_over_speed() -> None:
    assert mfu(50e12, 0.5, 200e12) == 0.5


def test_rows_fit_the_header() -> None:
    row = Result(model="2B", kind="LoRA", crop=60, recomputed="none", seconds=0.1234, peak=5.04, planned=5.11,
                 mfu=0.456).row("Card", "2.11")
    assert row == "| Card | 2.11 | 2B | LoRA | 60 s | none | 0.123 | 5.0 | 5.1 | 46% |"
    assert {line.count("|") for line in (*HEADER.splitlines(), row)} == {11}


def test_missing_card_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 1
    assert "needs an NVIDIA card, and a torch built for CUDA" in capsys.readouterr().err
