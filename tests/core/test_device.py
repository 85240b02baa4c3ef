"""Choice of device and dtype, and errors for missing devices and memory."""

from __future__ import annotations

import pytest
import torch

from sidestep_core.device import OutOfMemory, choose_device, choose_dtype, explain_out_of_memory, free_memory
from sidestep_core.errors import ConfigError, SideStepError


def test_auto_prefers_an_accelerator() -> None:
    device = choose_device("auto")
    assert (device.type == "cpu") == (not torch.accelerator.is_available())
    assert torch.zeros(1, device=device).device == device


def test_named_device_is_used() -> None:
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "CUDA 0"])
def test_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name!r} is unknown.*auto, cpu, cuda"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "xpu:99", "meta", "cpu:1"])
def test_absent_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name!r} is not available here; found 1 x cpu.*Use auto"):
        choose_device(name)


@pytest.mark.parametrize(("precision", "device", "dtype"), [
    ("fp32", "cpu", torch.float32), ("bf16", "cpu", torch.bfloat16), ("auto", "cpu", torch.float32),
    ("fp16", "cpu", torch.float16), ("fp16", "cuda", torch.float16),
    ("fp32", "cuda", torch.float32), ("bf16", "mps", torch.bfloat16), ("auto", "mps", torch.bfloat16),
    ("auto", "xpu", torch.bfloat16),
])  # fmt: skip
def test_auto_precision_prefers_bfloat16(precision: str, device: str, dtype: torch.dtype) -> None:
    assert choose_dtype(precision, torch.device(device)) == dtype


def test_cpu_out_of_memory_is_explained() -> None:
    with (pytest.raises(OutOfMemory, match=r"Out of memory while training\. Lower batch_size\."),
          explain_out_of_memory("training", "Lower batch_size.")):
        torch.empty(1 << 60, dtype=torch.uint8)


def test_out_of_memory_is_explained() -> None:
    with (pytest.raises(OutOfMemory, match=r"Out of memory while training\. Lower batch_size\. \(tried 3 GiB\)$"),
          explain_out_of_memory("training", "Lower batch_size.")):
        raise torch.OutOfMemoryError("tried 3 GiB\nand a page of advice")
    assert issubclass(OutOfMemory, SideStepError)


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(RuntimeError, match=r"^something else$"), explain_out_of_memory("training", ""):
        raise RuntimeError("something else")


def test_free_memory_is_known_on_cpu() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is not None
    assert 1 << 20 < free < 1 << 50
    assert free_memory(torch.device("meta")) is None
