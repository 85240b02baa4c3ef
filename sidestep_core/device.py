"""Device and precision of the computation, and the error for running out of memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .config import Precision
from .errors import ConfigError, SideStepError


class OutOfMemory(SideStepError):
    """The device is out of memory; the message names the settings to lower."""


def choose_device(name: str) -> torch.device:
    """Return the named device, or for "auto" the best one: CUDA, XPU, Apple's MPS, CPU.  ConfigError if unavailable."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        if torch.xpu.is_available():
            return torch.device("xpu")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is unknown. Use auto, cpu, cuda, cuda:1, mps or xpu.") from error
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "xpu": torch.xpu.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if (device.index or 0) >= available.get(device.type, 0):
        found = ", ".join(f"{count} x {kind}" for kind, count in available.items() if count)
        raise ConfigError(f"device {name!r} is not available here; found {found}. Use auto.")
    return device


def devices_like(first: torch.device) -> tuple[torch.device, ...]:
    """List this device and the machine's others of its type.

    A CPU is one device, unless SIDESTEP_CPU_DEVICES counts it as several, which is slower but tests the same code.
    """
    if first.type == "cpu":
        return (first,) * int(os.environ.get("SIDESTEP_CPU_DEVICES", "1"))
    counts: dict[str, Callable[[], int]] = {"cuda": torch.cuda.device_count, "xpu": torch.xpu.device_count}
    if first.type not in counts:
        return (first,)
    own = first.index or 0
    others = (torch.device(first.type, index) for index in range(counts[first.type]()) if index != own)
    return torch.device(first.type, own), *others


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype of the frozen base model: for "auto" bfloat16 if the device supports it, else float32."""
    if precision == "fp32":
        return torch.float32
    if precision in ("bf16", "fp16"):
        return torch.bfloat16 if precision == "bf16" else torch.float16
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    mps = torch.backends.mps
    too_old = device.type == "mps" and mps.is_available() and not mps.is_macos_or_newer(14, 0)
    return torch.float32 if device.type == "cpu" or too_old else torch.bfloat16


def send(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy a tensor to the device, in this dtype, without waiting for the work that is queued there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # From pageable memory a copy would still wait.
        return pin(tensor).to(device, dtype, non_blocking=True)
    return tensor.to(device, dtype)


def receive(numbers: Tensor) -> list[float]:
    """Read numbers [N]; waits for all work that is queued on their device."""
    return [float(number) for number in numbers.tolist()]


def pin(tensor: Tensor) -> Tensor:
    """Copy a tensor to host memory that a CUDA device reads by itself; torch keeps it until it was read."""
    return tensor.pin_memory()


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that torch can still allocate on the device, its cached blocks included; None if unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "xpu":
        free, _ = torch.xpu.mem_get_info(device)
        return free + torch.xpu.memory_reserved(device) - torch.xpu.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    if device.type == "cpu":
        import psutil

        return int(psutil.virtual_memory().available)
    return None


def total_memory(device: torch.device) -> int | None:
    """Return the bytes of a CUDA device's memory; None for other devices, which do not report them."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None


def used_memory(device: torch.device) -> int | None:
    """Return the bytes of tensors on a CUDA device; None for other devices, which do not report them."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def start_peak(device: torch.device) -> None:
    """Begin to watch the peak of the memory in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Return the largest number of bytes in use since `start_peak`; None for devices other than CUDA."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def release_memory(device: torch.device) -> None:
    """Free cached blocks, for the next stage or the host."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "xpu":
        torch.xpu.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for an out-of-memory error; not every device and version of torch raises OutOfMemoryError."""
    by_message = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)
    return by_message or isinstance(error, torch.OutOfMemoryError)


@contextlib.contextmanager
def explain_out_of_memory(doing: str, advice: str) -> Iterator[None]:
    """Turn torch's out-of-memory error into one that names the operation and the settings to lower."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"Out of memory while {doing}. {advice} ({str(error).splitlines()[0]})") from error
