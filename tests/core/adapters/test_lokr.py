"""LoKR through LyCORIS: its matrices, the backend, and the messages where it is missing or another."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sidestep_core import rng
from sidestep_core.adapters import file as adapter_file
from sidestep_core.adapters import formats, lokr, registry
from sidestep_core.adapters.lokr import Lokr, LokrConfig
from sidestep_core.errors import AdapterError, MissingDependency
from sidestep_core.model.checkpoint import Checkpoint
from tests.adapters import LYCORIS, attached, taught

LOKRS = {name: config for name, config in LYCORIS.items() if isinstance(config, LokrConfig)}


def by_hand(x: torch.Tensor, factors: dict[str, torch.Tensor], strength: float) -> torch.Tensor:
    """Output of a LoKR, one block after the other, without LyCORIS."""
    small = strength * lokr._block(factors, "lokr_w1")
    x = x.unflatten(-1, (small.shape[1], -1))
    for name in ("lokr_w2",) if "lokr_w2" in factors else ("lokr_w2_b", "lokr_w2_a"):
        x = F.linear(x, factors[name].to(x.dtype))
    return F.linear(x.transpose(-1, -2), small.to(x.dtype)).transpose(-1, -2).flatten(-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", LOKRS.values(), ids=LOKRS)
def test_output_equals_formula_bitwise(config: LokrConfig, dtype: torch.dtype) -> None:
    random = rng.generator("lokr")
    factors = {name: torch.randn(one.rows, one.columns, generator=random)
               for name, one in Lokr().matrices(config, 3, 48, 64).items()}
    x = torch.randn(2, 5, 64, generator=random).to(dtype)
    found = Lokr().output(x, factors, 1 / 3)
    assert torch.equal(found, by_hand(x, factors, 1 / 3))
    assert not torch.equal(found, by_hand(x, factors, 1 / 2))


def test_nothing_is_compiled(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    import lycoris.functional.lokr as functional

    choose = functional.choose
    monkeypatch.setattr(functional, "choose", lambda *args, backend=None, **settings: (
        asked.append(backend), choose(*args, backend=backend, **settings))[1])
    _, live = taught(checkpoint, LYCORIS["lokr-dora"])
    list(live.deltas())
    assert set(asked) == {"torch"}


def test_missing_lycoris_names_the_package(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lycoris", None)
    monkeypatch.setitem(sys.modules, "lycoris.functional.lokr", None)
    with pytest.raises(MissingDependency, match="LoKR training needs .* pip install --upgrade lycoris-lora"):
        attached(checkpoint, LYCORIS["lokr"])


def test_files_are_read_without_lycoris(checkpoint: Checkpoint, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    adapter_file.write(path, taught(checkpoint, LYCORIS["lokr"])[1].state_dict(), {})
    monkeypatch.setitem(sys.modules, "lycoris", None)
    monkeypatch.setitem(sys.modules, "lycoris.functional.lokr", None)
    assert all(delta.delta(torch.zeros(delta.factors.shape)).any()
               for delta in formats.read(path).modules.values() if delta.factors)


def test_other_matrices_are_refused(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lokr, "_split", lambda size, factor: (1, size))
    with pytest.raises(AdapterError, match=r"installed lycoris-lora makes .* pip install lycoris-lora==4\.1\.3"):
        attached(checkpoint, LYCORIS["lokr"])


def test_requirements_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    registry.require(LokrConfig())
    assert "lycoris.modules.lokr" in sys.modules
