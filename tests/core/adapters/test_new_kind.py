"""A new kind of adapter is one class and one line in registry.py.

It touches three files at most: its own, registry.py, and the table of the nodes that configure adapters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from sidestep_core.adapters import file as adapter_file
from sidestep_core.adapters import formats, layer, registry
from sidestep_core.adapters.algorithm import Factors, LiveAdapter, Matrix, Parts, ScaleOf, Trainable, uniform, zeros
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.delta import WeightDelta, number, require_part
from sidestep_core.adapters.proof import prove
from sidestep_core.io.tensors import read_tensors
from sidestep_core.model.checkpoint import Checkpoint
from tests.adapters import attached, velocity
from tests.tolerance import FP32


@dataclass(frozen=True, kw_only=True)
class OuterConfig(AdapterConfig):
    kind: ClassVar[str] = "outer"
    bend: float = 1.0

    @property
    def base_rank(self) -> int:
        return 1


@dataclass(frozen=True, kw_only=True)
class OuterDelta(WeightDelta):
    column: Tensor
    row: Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.column.shape[0], self.row.shape[1]

    def delta(self, dtype: torch.dtype) -> Tensor:
        return self.scale * torch.outer(self.column.flatten().to(dtype), self.row.flatten().to(dtype))

    def host(self) -> dict[str, Tensor]:
        return {"outer_column": self.column, "outer_row": self.row, "alpha": number(self.scale)}


class Outer(Trainable):
    """Rank-one update."""

    kind = "outer"
    config = OuterConfig
    file_names: ClassVar[Mapping[str, str]] = {"outer_column": "outer_column", "outer_row": "outer_row"}
    rank_parts = ("outer_row",)
    scaled_names = ("outer_row",)

    def matrices(self, config: AdapterConfig, rank: int, rows: int, columns: int) -> dict[str, Matrix]:
        return {"outer_column": Matrix(rows, 1, uniform), "outer_row": Matrix(1, columns, zeros)}

    def attach(self, decoder: nn.Module, config: AdapterConfig, modules: Mapping[str, int], seed: int) -> LiveAdapter:
        return layer.attach(self, decoder, config, modules, seed)

    def product(self, factors: Factors) -> Tensor:
        return factors["outer_column"] @ factors["outer_row"]

    def parse(self, module: str, parts: Parts, scale_of: ScaleOf) -> WeightDelta:
        column, row = require_part(module, parts, "outer_column"), require_part(module, parts, "outer_row")
        return OuterDelta(column=column, row=row, scale=scale_of(1))


@pytest.fixture
def outer(monkeypatch: pytest.MonkeyPatch) -> OuterConfig:
    monkeypatch.setattr(registry, "ALGORITHMS", (*registry.ALGORITHMS, Outer()))
    config = OuterConfig(alpha=1.5, bend=2.0, dropout=0.0)
    travelled = registry.config_from_json(json.loads(json.dumps(config.to_json())))
    assert travelled == config
    return config


def test_new_kind_goes_all_the_way(checkpoint: Checkpoint, outer: OuterConfig, tmp_path: Path) -> None:
    decoder, live = attached(checkpoint, outer)
    assert registry.capacity(outer, decoder.geometry).total == sum(one.numel() for one in live.parameters)
    optimizer = torch.optim.AdamW(live.parameters, lr=0.1)
    velocity(decoder.train()).square().mean().backward()
    optimizer.step()
    path = tmp_path / "a.safetensors"
    adapter_file.write(path, live.state_dict(), {})
    proof = prove(path, live.deltas(), formats.delta_fn)
    assert (proof.matched, proof.effect) == (proof.total, pytest.approx(1))
    assert proof.error <= FP32
    again, other = attached(checkpoint, outer, seed=5)
    other.load_state_dict(read_tensors(path))
    assert torch.equal(velocity(again.eval()), velocity(decoder.eval()))
    third, continued = attached(checkpoint, outer, seed=6)
    continued.load_state_dict(formats.as_own_state(path))
    assert torch.equal(velocity(third.eval()), velocity(decoder.eval()))


def test_unregistered_kind_is_unknown(checkpoint: Checkpoint, outer: OuterConfig, tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    adapter_file.write(tmp_path / "a.safetensors", attached(checkpoint, outer)[1].state_dict(), {})
    monkeypatch.undo()
    assert formats.read(tmp_path / "a.safetensors").modules == {}


def test_kinds_are_named_in_their_own_files() -> None:
    """No other file of the package decides by the kind of a config."""
    folder = Path(registry.__file__).parent
    own = {f"{one.kind}.py" for one in registry.ALGORITHMS}
    deciding = {path.name for path in folder.glob("*.py") for word in ("LoraConfig", "LokrConfig", "LohaConfig")
                if word in path.read_text(encoding="utf-8")}
    assert deciding <= own
