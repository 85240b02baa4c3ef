"""Every adapter layout has the effect that was trained, at any strength, through the real host; wrong ones show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import effect
from benchmarks._layouts import ROWS, side_step_dora
from benchmarks._writers import KOHYA, MODEL, Made, peft, renamed, rewritten
from sidestep_core.io.tensors import read_tensors
from tests.host.pack import pack_module
from tests.tolerance import FP32


@pytest.fixture(scope="module", params=effect.SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(comfy: ModuleType, shape: str) -> Any:
    return effect.host_model(shape)


@pytest.mark.parametrize("name", ROWS)
def test_layout_has_trained_effect(model: Any, shape: str, name: str, tmp_path: Path) -> None:
    for cell in effect.cells(name, ROWS[name], shape, model, tmp_path):
        assert cell.matched == cell.total > 0
        assert cell.error <= FP32, cell
        assert cell.effect == pytest.approx(cell.strength, abs=FP32)


def test_table_has_every_layout() -> None:
    letters = {name[:2].strip() for name in ROWS} - {"--", "=="}
    assert letters >= {*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "AA"}
    assert len(effect.STRENGTHS) == 3


def stock(model: Any, made: Made) -> float:
    """The error with ComfyUI's own LoRA node."""
    import comfy.sd

    patched, _ = comfy.sd.load_lora_for_models(model, None, read_tensors(made.path), 1.0, 0.0)
    base = effect.decoder_weights(model)
    return effect.compare(effect.applied(patched), base, made, 1.0)[0]


def ours(model: Any, made: Made) -> float:
    base = effect.decoder_weights(model)
    patched, *_ = pack_module("nodes.host.models").patch(model, made.path, 1.0, made.alpha)
    return effect.compare(effect.applied(patched), base, made, 1.0)[0]


@pytest.mark.parametrize("name", ["A  PEFT folder", "F  doubled prefix", "N' rsLoRA, plain alpha", "P  DoRA, [out]",
                                  "Q  DoRA, [out, 1]", "R  DoRA, PEFT", "X  LoKR + DoRA by rows",
                                  "-- LoKR, PEFT, both whole"])
def test_stock_loader_misapplies_these(model: Any, name: str, tmp_path: Path) -> None:
    """The twin: the comparison sees it, so its silence elsewhere means something."""
    made = ROWS[name](tmp_path, effect.decoder_weights(model))
    assert stock(model, made) > 1000 * FP32
    assert ours(model, made) <= FP32


def other_alpha(folder: Path, weights: dict[str, Tensor]) -> Made:
    return rewritten(peft(folder, weights), renamed((MODEL, "diffusion_model.decoder."), *KOHYA, alpha=8.1))


def no_magnitude(folder: Path, weights: dict[str, Tensor]) -> Made:
    made = side_step_dora(folder, weights, two_axes=True)
    return rewritten(made, lambda name, tensor: iter(() if "dora_scale" in name else ((name, tensor),)))


def one_number_off(folder: Path, weights: dict[str, Tensor]) -> Made:
    made = peft(folder, weights)

    def change(name: str, tensor: Tensor) -> Any:
        tensor[0, 0] *= 1.001 if "layers.1.cross_attn.v_proj.lora_B" in name else 1
        yield from renamed()(name, tensor)

    return rewritten(made, change)


@pytest.mark.parametrize("row", [other_alpha, no_magnitude, one_number_off])
def test_wrong_file_is_detected(model: Any, row: Callable[..., Made], tmp_path: Path) -> None:
    assert ours(model, row(tmp_path, effect.decoder_weights(model))) > 10 * FP32


def test_streamed_dora_is_exact(model: Any, tmp_path: Path) -> None:
    """In low memory the host copies every change to the device in one piece, and computes when the layer runs."""
    import comfy.lora
    import comfy.model_patcher

    base = effect.decoder_weights(model)
    made = ROWS["R  DoRA, PEFT"](tmp_path, base)
    patched, *_ = pack_module("nodes.host.models").patch(model, made.path, 1.0)
    module = "layers.0.self_attn.k_proj"
    key = f"{effect.PREFIX}{module}.weight"
    streamed = comfy.model_patcher.LowVramPatch(key, patched.patches)
    size = streamed.memory_required()
    assert size > 0
    streamed.prepare(torch.empty(size, dtype=torch.uint8), None)
    found = streamed(base[module].clone()) - base[module]
    assert (found.double() - made.truth[module]).abs().max() <= FP32 * made.truth[module].abs().max()
