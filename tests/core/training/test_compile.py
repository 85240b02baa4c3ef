"""A compiled layer against the one that is computed operation by operation.

Traced as for every compiler, but run by torch's own kernels: inductor takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from sidestep_core import rng
from sidestep_core.adapters.loha import LohaConfig
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.errors import ConfigError
from sidestep_core.io.tensors import read_tensors
from sidestep_core.model import compilation
from sidestep_core.model.attention import DENSE_BELOW
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.decoder import Decoder
from sidestep_core.progress import Cancelled, Progress, ignore
from sidestep_core.training.footprint.step_down import lower_precision
from sidestep_core.training.footprint.uncompiled import without_failing_compiler
from sidestep_core.training.step import Training, optimizer_step
from tests.tiny import write_dataset
from tests.tolerance import FP32, PERTURBED, deviation
from tests.training import CONFIG, prepared, same_tensors, stop_at, trained

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LONG = 2 * DENSE_BELOW + 60
FRAMES = (40, 52, 66, LONG, LONG + 77, LONG + 300)
SMALL = LoraConfig(rank=4, alpha=8.0, dropout=0.1, attention_type="self")
LORA = replace(SMALL, attention_type="both", rank_dropout=0.2, target_mlp=True)
PLAIN = replace(CONFIG, batch_size=1, gradient_accumulation=len(FRAMES), heldout_songs=0, max_steps=8)
ON = replace(PLAIN, compile="on")
SHORT = replace(ON, max_steps=2, gradient_accumulation=2, heldout_every=100, save_every=1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("dataset"), checkpoint, FRAMES, (9, 5, 12, 7, 9, 6))


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Dataset:
    """Songs of one length with different numbers of tokens, which share a batch."""
    return write_dataset(tmp_path_factory.mktemp("alike"), checkpoint, (LONG,) * 3, (9, 5, 12))


@pytest.fixture(scope="module")
def graphs() -> Iterator[list[torch.fx.GraphModule]]:
    """Graphs that were traced, each run as it is."""
    found: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        found.append(graph)
        return graph.forward

    with mock.patch.object(compilation, "BACKEND", backend):
        yield found
    torch.compiler.reset()


def changed(training: Training) -> Training:
    """Let every factor count: B starts at zero."""
    random = rng.generator("changed")
    with torch.no_grad():
        for parameter in training.adapter.parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))
    return training


def gradients(training: Training, step: int = 0) -> Tensor:
    """Gradients of a step, which is not taken."""
    with mock.patch.object(training.optimizer, "step"), mock.patch.object(training.optimizer, "zero_grad"):
        optimizer_step(training, step)
    found = [parameter.grad.flatten() for parameter in training.adapter.parameters if parameter.grad is not None]
    training.optimizer.zero_grad(set_to_none=True)
    return torch.cat(found)


def compare(checkpoint: Checkpoint, dataset: Dataset, adapter: LoraConfig = LORA, **changes: Any) -> None:
    """Compare the gradients of compiled layers with those of plain ones; the twin has other draws."""
    plain, compiled, other = (changed(prepared(checkpoint, dataset, adapter, replace(config, **changes)))
                              for config in (PLAIN, ON, replace(PLAIN, seed=1)))
    expected = gradients(plain)
    assert deviation(gradients(compiled), expected) <= FP32
    assert deviation(gradients(other), expected) > PERTURBED


def test_lengths_share_a_graph(checkpoint: Checkpoint, dataset: Dataset, graphs: list[Any]) -> None:
    """Three for any number of lengths: sliding attention with one mask and in blocks, and full attention."""
    compare(checkpoint, dataset, SMALL)
    assert len(graphs) == 3


@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_batches_share_a_graph(checkpoint: Checkpoint, alike: Dataset, graphs: list[Any], checkpointing: str) -> None:
    """Samples of any number of tokens, also where layers are recomputed; a song alone takes the graph of one."""
    before = {*map(id, graphs)}
    compare(checkpoint, alike, batch_size=3, gradient_accumulation=1, gradient_checkpointing=checkpointing)
    assert len({*map(id, graphs)} - before) <= 2


def test_differentiated_graph_is_right(checkpoint: Checkpoint, alike: Dataset) -> None:
    """Forward and backward pass as compilers get them, of one layer."""
    from torch._dynamo.backends.debugging import aot_eager

    with mock.patch.object(compilation, "BACKEND", aot_eager), single_layer():
        compare(checkpoint, alike, replace(SMALL, rank_dropout=0.2), batch_size=3, gradient_accumulation=1)


@contextmanager
def single_layer() -> Iterator[None]:
    """Leave all layers but the first out, which have other masks."""
    real = Decoder.forward

    def forward(decoder: Decoder, *inputs: Any) -> Tensor:
        every = decoder.layers
        decoder.layers = every[:1]
        try:
            return real(decoder, *inputs)
        finally:
            decoder.layers = every

    with mock.patch.object(Decoder, "forward", forward):
        yield


def failing(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
    raise RuntimeError("no room for the code\nand more")


def test_failing_compiler_ends_nothing(checkpoint: Checkpoint, dataset: Dataset, graphs: list[Any],
                                       tmp_path: Path) -> None:
    """The step is repeated with the same draws, so the file is that of a training without a compiler, bit for bit."""
    seen: list[Progress] = []
    with mock.patch.object(compilation, "BACKEND", failing):
        found = trained(checkpoint, dataset, tmp_path / "failed", SMALL, SHORT, report=seen.append)
    [notice] = [progress.notice for progress in seen if "compiler" in progress.notice]
    assert notice.startswith("The compiler failed in step 1, so the training goes on without it, from the same step: ")
    assert "no room for the code" in notice
    assert "and more" not in notice
    plain = trained(checkpoint, dataset, tmp_path / "plain", SMALL, replace(SHORT, compile="off"))
    assert same_tensors(found.path, plain.path)


@pytest.mark.parametrize("error", [Cancelled("Stopped."), ConfigError("x"), torch.OutOfMemoryError("out of memory")])
def test_other_errors_keep_the_compiler(checkpoint: Checkpoint, dataset: Dataset, error: Exception) -> None:
    training = prepared(checkpoint, dataset, LORA, ON)
    with pytest.raises(type(error)):
        without_failing_compiler(raising(error), training, 0, ignore)
    assert training.objective.decoder.compiled is not None


def test_error_of_plain_layers_is_raised(checkpoint: Checkpoint, dataset: Dataset) -> None:
    training = prepared(checkpoint, dataset, LORA, ON)
    with pytest.raises(ZeroDivisionError, match="again"):
        without_failing_compiler(raising(ZeroDivisionError("once"), ZeroDivisionError("again")), training, 0, ignore)


def raising(*errors: Exception) -> Callable[[], None]:
    """Work that raises these, one at a time."""
    left = [*errors]

    def work() -> None:
        raise left.pop(0)

    return work


def test_stopped_run_resumes(checkpoint: Checkpoint, dataset: Dataset, graphs: list[Any], tmp_path: Path) -> None:
    """Within rounding of the compiler, also without it; a run of other draws is not."""
    whole = read_tensors(trained(checkpoint, dataset, tmp_path / "whole", SMALL, SHORT).path)
    with pytest.raises(Cancelled):
        trained(checkpoint, dataset, tmp_path / "part", SMALL, SHORT, report=stop_at(1, Cancelled("Stopped.")))
    resumed = read_tensors(trained(checkpoint, dataset, tmp_path / "part", SMALL, replace(SHORT, compile="off")).path)
    other = read_tensors(trained(checkpoint, dataset, tmp_path / "other", SMALL, replace(SHORT, seed=1)).path)
    assert graphs
    assert all(deviation(resumed[name], whole[name]) <= FP32 for name in whole)
    assert any(deviation(other[name], whole[name]) > PERTURBED for name in whole)


def test_model_in_fewer_bits_is_refused(checkpoint: Checkpoint, dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="compile is on, but the model is kept in fewer bits"):
        prepared(checkpoint, dataset, LORA, replace(ON, base_precision="int8"))


@pytest.mark.parametrize("adapter", [LohaConfig(), LoraConfig(dora=True)], ids=["loha", "dora"])
def test_other_adapters_are_refused(checkpoint: Checkpoint, dataset: Dataset, adapter: Any) -> None:
    with pytest.raises(ConfigError, match="compile is on, but that is only for a LoRA without DoRA"):
        prepared(checkpoint, dataset, adapter, ON)
    training = prepared(checkpoint, dataset, adapter, replace(ON, compile="auto"))
    assert training.objective.decoder.compiled is None


def test_steps_down_leave_the_compiler(checkpoint: Checkpoint, dataset: Dataset) -> None:
    """Layers that wait in host memory, or take fewer bits, are not compiled."""
    training = prepared(checkpoint, dataset, LORA, ON)
    lower_precision(training, "int8")
    assert training.objective.decoder.compiled is None


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A card, triton and a compiler."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    monkeypatch.setattr(compilation.optional, "is_installed", lambda package: package == "triton")
    monkeypatch.setattr(compilation.shutil, "which", lambda program: program)
    return monkeypatch


def test_auto_waits_where_it_may_pay(card: pytest.MonkeyPatch) -> None:
    assert compilation.choose("auto", CUDA, 500)
    assert not compilation.choose("auto", CUDA, 499)
    assert not compilation.choose("auto", CPU, 500)
    assert not compilation.choose("auto", CUDA, 500, "it is another kind")
    assert not compilation.choose("off", CUDA, 500)
    assert compilation.choose("on", CPU, 1)


@pytest.mark.parametrize(("platform", "device", "change", "reason"), [
    ("linux", CUDA, ("optional.is_installed", False), "the package triton is not installed"),
    ("linux", CUDA, ("torch.cuda.get_device_capability", (6, 1)), "too old for triton"),
    ("linux", CUDA, ("shutil.which", None), r"no C\+\+ compiler \(cc, gcc, clang\)"),
    ("win32", CUDA, ("shutil.which", None), r"no C\+\+ compiler \(cl\)"),
    ("win32", CPU, ("shutil.which", None), r"no C\+\+ compiler \(cl\)"),
    ("darwin", torch.device("mps"), ("shutil.which", "cl"), "nothing is compiled for mps"),
])  # fmt: skip
def test_impossible_is_off_or_an_error(card: pytest.MonkeyPatch, platform: str, device: torch.device,
                                       change: tuple[str, Any], reason: str) -> None:
    name, value = change
    card.setattr(f"sidestep_core.model.compilation.{name}", lambda *_: value)
    card.setattr(compilation.sys, "platform", platform)
    card.delenv("CC", raising=False)
    card.delenv("CXX", raising=False)
    assert not compilation.choose("auto", device, 1000)
    with pytest.raises(ConfigError, match=f"compile is on, but .*{reason}"):
        compilation.choose("on", device, 1000)
