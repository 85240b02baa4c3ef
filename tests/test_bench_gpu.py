"""Benchmark on a card, as far as it goes without one."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu
from benchmarks.gpu import HEADER, LAYERS, Result, inputs_of, mfu, step_of, work_of
from sidestep_core.adapters import registry
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.model.decoder import Decoder, DecoderGeometry
from sidestep_core.training.memory import Batch

SIZE = DecoderGeometry(width=64, layers=LAYERS, heads=4, kv_heads=2, head_width=16, mlp=128, condition_width=32,
                       in_channels=192, out_channels=64, patch=2)
BATCH = Batch(samples=1, frames=60, tokens=7, bytes=2, dropout=False, gpu=True)
CONFIG = LoraConfig(rank=4, alpha=4.0, dropout=0.0)


def test_work_is_that_of_a_real_step() -> None:
    decoder = Decoder(SIZE)
    registry.attach(decoder.train(), CONFIG, target_modules(CONFIG, LAYERS), seed=0)
    with FlopCounterMode(display=False) as counter:
        step_of(decoder, inputs_of(SIZE, BATCH, torch.device("cpu"), torch.float32))()
    assert work_of(SIZE, CONFIG, BATCH) == counter.get_total_flops() > 0


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
