"""Every program that people are sent to gives our own LoRAs the effect that was trained at strength 1.0."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import effect
from benchmarks._layouts import own
from benchmarks._writers import Made
from benchmarks.programs.judges import JUDGED, JUDGES, error
from sidestep_core.adapters import peft_layout
from sidestep_core.adapters.peft_layout import HEADER_KEY
from sidestep_core.io.tensors import read_metadata, read_tensors
from tests.adapters import LYCORIS
from tests.tolerance import FP32


@pytest.fixture(scope="module")
def weights(comfy: ModuleType) -> dict[str, Tensor]:
    return effect.decoder_weights(effect.host_model("XL"))


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("name", JUDGED)
def test_strength_one_equals_training(weights: dict[str, Tensor], judge: str, name: str, tmp_path: Path) -> None:
    assert error(JUDGES[judge], own(JUDGED[name])(tmp_path, weights), weights) <= FP32


@pytest.mark.parametrize("judge", JUDGES)
def test_judges_detect_wrong_strength(weights: dict[str, Tensor], judge: str, tmp_path: Path) -> None:
    """The twin."""
    made = own(JUDGED["lora"])(tmp_path, weights)
    wrong = Made(made.path, {module: 1.001 * delta for module, delta in made.truth.items()})
    assert error(JUDGES[judge], wrong, weights) > 10 * FP32


def test_diffusers_needs_the_header(weights: dict[str, Tensor], tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Why it is there: without it, half of alpha 8 at rank 4 would be lost there without a word."""
    monkeypatch.setattr(peft_layout, "header", lambda state: {})
    assert error(JUDGES["diffusers"], own(JUDGED["lora"])(tmp_path, weights), weights) > 0.1


@pytest.mark.parametrize("name", LYCORIS)
def test_lycoris_kinds_get_no_header(weights: dict[str, Tensor], name: str, tmp_path: Path) -> None:
    made = own(LYCORIS[name])(tmp_path, weights)
    assert peft_layout.settings(read_tensors(made.path)) is None
    assert HEADER_KEY not in read_metadata(made.path)


def test_unseen_names_get_no_header() -> None:
    """It takes a file for one of the official program by its q_proj and k_proj."""
    def state(projection: str) -> dict[str, Any]:
        module = f"base_model.model.layers.0.self_attn.{projection}"
        return {f"{module}.lora_A.weight": torch.ones(2, 8), f"{module}.lora_B.weight": torch.ones(8, 2),
                f"{module}.alpha": torch.tensor(3.0)}

    assert HEADER_KEY in peft_layout.header(state("q_proj") | state("v_proj"))
    assert peft_layout.header(state("o_proj") | state("v_proj")) == {}


def test_same_adapter_gives_same_file(weights: dict[str, Tensor], tmp_path: Path) -> None:
    """safetensors writes the entries of its metadata in any order."""
    files = {own(JUDGED["lora"])(tmp_path / str(number), weights).path.read_bytes() for number in range(6)}
    assert len(files) == 1
