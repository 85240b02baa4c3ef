"""Conditions of prompts: independent of each other, and nothing shared is encoded twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sidestep_core.dataset.conditions import encode_conditions
from sidestep_core.dataset.manifest import Dataset
from sidestep_core.io import hashing
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.condition_encoder import ProjectedEncoder, TextEncoder
from sidestep_core.model.prompts import Prompt
from tests.tiny import TinySource, write_dataset

CPU = torch.device("cpu")


@pytest.fixture
def dataset(checkpoint: Checkpoint, tmp_path: Path) -> Dataset:
    return write_dataset(tmp_path / "dataset", checkpoint, (38, 51, 103), genre="jazz")


@pytest.mark.parametrize("style", ["comfyui", "official"])
def test_conditions_are_independent(source: TinySource, checkpoint: Checkpoint, dataset: Dataset,
                                    tmp_path: Path, style: str) -> None:
    """The bits of a condition do not depend on the prompts encoded with or before it."""
    prompts = [prompt for info in dataset.samples for frames in (info.frames, 38, 30)
               for prompt in info.prompts(frames)]
    prompts += [replace(prompts[0], lyrics=f"la {number}") for number in range(12)]

    def encoded(folder: str, order: list[Prompt]) -> dict[str, str]:
        paths = {tmp_path / folder / f"{prompts.index(prompt)}.safetensors": ("song", prompt) for prompt in order}
        encode_conditions(source, checkpoint, paths, style, CPU, lambda *_: None)
        return {path.name: hashing.hash_file(path) for path in paths}

    alone: dict[str, str] = {}
    for prompt in prompts:
        alone |= encoded("alone", [prompt])
    assert len(alone) == len(set(prompts)) == 28
    assert encoded("together", prompts) == encoded("backwards", prompts[::-1]) == alone


def test_shared_parts_are_encoded_once(source: TinySource, checkpoint: Checkpoint, dataset: Dataset,
                                       tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = ProjectedEncoder.encode_projected

    def counted(encoder: ProjectedEncoder, x_BLD: torch.Tensor) -> torch.Tensor:
        seen.append(x_BLD.shape[1])
        return encode(encoder, x_BLD)

    monkeypatch.setattr(ProjectedEncoder, "encode_projected", counted)
    info = dataset.samples[2]
    prompts = [prompt for frames in (103, 38) for prompt in info.prompts(frames)]
    encode_conditions(source, checkpoint,
                      {tmp_path / f"{number}.safetensors": ("song", prompt) for number, prompt in enumerate(prompts)},
                      "comfyui", CPU, lambda *_: None)
    assert len(prompts) == 4
    lyrics = len(info.lyrics) + len("# Languages\nen\n\n# Lyric\n") + 2
    assert sorted(seen) == sorted([lyrics, 103, 38])


def test_equal_texts_are_encoded_once(source: TinySource, checkpoint: Checkpoint, dataset: Dataset,
                                      tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One caption with a dozen lyrics, and these again with another caption, far apart from each other."""
    captions: list[str] = []
    lyrics: list[int] = []
    encode, embed = TextEncoder.encode_caption, TextEncoder.embed
    monkeypatch.setattr(TextEncoder, "encode_caption",
                        lambda texts, prompt: captions.append(prompt.caption) or encode(texts, prompt))
    monkeypatch.setattr(TextEncoder, "embed", lambda texts, ids: lyrics.append(len(ids)) or embed(texts, ids))
    one = dataset.samples[0].prompt()
    prompts = [replace(one, caption=caption, lyrics="la " * number) for caption in ("calm", "wild")
               for number in range(1, 13)]
    paths = {tmp_path / f"{number}.safetensors": ("song", prompt) for number, prompt in enumerate(prompts)}
    encode_conditions(source, checkpoint, paths, "comfyui", CPU, lambda *_: None)
    assert sorted(captions) == ["calm", "wild"]
    assert len(lyrics) == 12
