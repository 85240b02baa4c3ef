"""Condition encoder: exact tokens and attention masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sidestep_core import rng
from sidestep_core.errors import CheckpointError
from sidestep_core.io.tensors import read_tensors, write_tensors
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.condition_encoder import (
    END_OF_TEXT,
    ConditionEncoder,
    Qwen3,
    TextEncoder,
    load_condition_encoder,
)
from sidestep_core.model.layers import load_frozen
from sidestep_core.model.prompts import Prompt
from sidestep_core.model.weights import Weights
from tests.tolerance import FP32, PERTURBED, deviation

CPU = torch.device("cpu")
PROMPT = Prompt(caption="calm lo-fi", lyrics="[Verse]\nRain", language="en", bpm=90, key="C major", signature="4/4",
                seconds=8.0)


@pytest.fixture(scope="module")
def text_encoder(checkpoint: Checkpoint, tokenizer_folder: Path) -> TextEncoder:
    return TextEncoder(checkpoint.text_encoder_weights(), tokenizer_folder, CPU)


@pytest.fixture(scope="module")
def qwen(checkpoint: Checkpoint) -> Qwen3:
    weights = checkpoint.text_encoder_weights()
    with torch.device("meta"):
        model = Qwen3(weights)
    load_frozen(model, weights, torch.float32, CPU)
    return model


@pytest.fixture(scope="module")
def encoder(checkpoint: Checkpoint) -> ConditionEncoder:
    return load_condition_encoder(checkpoint.model_weights().under("encoder."), torch.float32, CPU)


def test_tokenize_adds_no_tokens(text_encoder: TextEncoder) -> None:
    assert len(text_encoder.tokenize("abc")) == 3
    assert text_encoder.tokenize("a<|endoftext|>") == [*text_encoder.tokenize("a"), END_OF_TEXT]


def test_long_lyrics_are_kept(text_encoder: TextEncoder) -> None:
    prompt = replace(PROMPT, lyrics="la " * 3000)
    assert text_encoder.embed_lyrics(prompt).shape[1] == len(prompt.lyrics_text) - 2 * len("<|endoftext|>") + 2


def test_lyrics_are_token_embeddings(text_encoder: TextEncoder, checkpoint: Checkpoint) -> None:
    table = checkpoint.text_encoder_weights().tensor("embed_tokens.weight", torch.float32, CPU)
    ids = text_encoder.tokenize(PROMPT.lyrics_text)
    assert torch.equal(text_encoder.embed_lyrics(PROMPT), table[ids][None])


def ids_and_end(text_encoder: TextEncoder) -> tuple[Tensor, int]:
    ids = text_encoder.tokenize(PROMPT.caption_text)
    return torch.tensor([ids]), ids.index(END_OF_TEXT)


def test_caption_masks_closing_tokens(text_encoder: TextEncoder, qwen: Qwen3) -> None:
    ids, end = ids_and_end(text_encoder)
    assert ids.shape[1] == end + 3
    assert torch.equal(text_encoder.encode_caption(PROMPT), qwen(ids, visible=end))
    assert deviation(text_encoder.encode_caption(PROMPT), qwen(ids, visible=end + 1)) > PERTURBED


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_closing_tokens_are_invisible(text_encoder: TextEncoder, qwen: Qwen3, offset: int) -> None:
    ids, end = ids_and_end(text_encoder)
    other = ids.clone()
    other[0, end + offset] = 7
    changed = (qwen(ids, visible=end) != qwen(other, visible=end)).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [end + offset]


@pytest.mark.parametrize("place", [0, 5, 30])
def test_text_model_is_causal(text_encoder: TextEncoder, qwen: Qwen3, place: int) -> None:
    ids, end = ids_and_end(text_encoder)
    other = ids.clone()
    other[0, place] = 300
    changed = (qwen(ids, visible=end) != qwen(other, visible=end)).any(-1)[0]
    assert torch.equal(changed, torch.arange(ids.shape[1]) >= place)


def test_text_model_matches_qwen3(text_encoder: TextEncoder, qwen: Qwen3, checkpoint: Checkpoint) -> None:
    from transformers import Qwen3Config, Qwen3Model

    weights = checkpoint.text_encoder_weights()
    vocabulary, width = weights.shape("embed_tokens.weight")
    theirs = Qwen3Model(Qwen3Config(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )).eval()  # fmt: skip
    theirs.load_state_dict({name: weights.tensor(name, torch.float32, CPU) for name in weights.names})
    ids, end = ids_and_end(text_encoder)
    with torch.no_grad():
        expected = theirs(ids).last_hidden_state
    assert deviation(qwen(ids, visible=ids.shape[1]), expected) < FP32
    assert deviation(qwen(ids, visible=end), expected) > PERTURBED


def parts() -> tuple[Tensor, Tensor, Tensor]:
    """Draw caption states, lyric embeddings and reference latents."""
    random = rng.generator("condition")
    return (torch.randn(1, 6, 32, generator=random), torch.randn(1, 9, 32, generator=random),
            torch.randn(1, 20, 64, generator=random))


@pytest.mark.parametrize(("part", "first", "last"), [(1, 0, 9), (2, 9, 10), (0, 10, 16)],
                         ids=["lyrics", "timbre", "caption"])
def test_condition_is_packed_in_order(encoder: ConditionEncoder, part: int, first: int, last: int) -> None:
    given = list(parts())
    before = encoder(*given)
    given[part] = given[part] + 1
    changed = (encoder(*given) != before).any(-1)[0]
    assert before.shape == (1, 16, 64)
    assert changed.nonzero().flatten().tolist() == list(range(first, last))


def test_encoders_are_bidirectional(encoder: ConditionEncoder) -> None:
    caption, lyrics, timbre = parts()
    other_lyrics, other_timbre = lyrics.clone(), timbre.clone()
    other_lyrics[:, -1] += 1
    other_timbre[:, -1] += 1
    changed = (encoder(caption, other_lyrics, other_timbre) != encoder(caption, lyrics, timbre)).any(-1)[0]
    assert changed[:10].all()


def test_caption_tokens_are_independent(encoder: ConditionEncoder) -> None:
    caption, lyrics, timbre = parts()
    found = encoder(caption, lyrics, timbre)[:, 10:]
    assert deviation(found, caption @ encoder.text_projector.weight.mT) < FP32


@pytest.mark.parametrize("name", ["encoder.lyric_encoder.embed_tokens.bias", "encoder.lyric_encoder.norm.weight",
                                  "encoder.timbre_encoder.layers.1.mlp.up_proj.weight"])
def test_wrong_weights_are_named(checkpoint: Checkpoint, tmp_path: Path, name: str) -> None:
    tensors = read_tensors(checkpoint.model[0])
    tensor = tensors.pop(name)
    write_tensors(tmp_path / "lacking.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"lacking\.safetensors has no weight"):
        load_condition_encoder(Weights.open([tmp_path / "lacking.safetensors"]).under("encoder."), torch.float32, CPU)
    write_tensors(tmp_path / "longer.safetensors", {**tensors, name: torch.cat((tensor, tensor[:1]))})
    with pytest.raises(CheckpointError, match=r"longer\.safetensors has shape"):
        load_condition_encoder(Weights.open([tmp_path / "longer.safetensors"]).under("encoder."), torch.float32, CPU)
