"""The official style matches diffusers' pipeline, from tokens to hidden states of the condition.

diffusers' ACE-Step 1.5 equals the official code for 2B.  For XL, where it leaves out the timbre's own token, that one
line is put in front of its timbre encoder here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from demo.synthetic_model import write_tiny_models
from demo.synthetic_tensors import XL_LIKE
from sidestep_core.dataset.conditions import encode_conditions
from sidestep_core.io.tensors import read_tensors
from sidestep_core.model.checkpoint import Checkpoint, open_checkpoint
from sidestep_core.model.condition_encoder import CAPTION_TOKENS, END_OF_TEXT, LYRICS_TOKENS, TextEncoder
from sidestep_core.model.prompts import COMFYUI, OFFICIAL, OFFICIAL_TIMBRE_FRAMES, Prompt
from tests.prompts import TWENTY
from tests.tiny import TinySource
from tests.tolerance import FP32, PERTURBED, deviation

CPU = torch.device("cpu")
ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "o_proj": "to_out.0", "q_norm": "norm_q",
             "k_norm": "norm_k"}
LONG = replace(TWENTY["english"], caption="epic " * 90, lyrics="Hold the light\n" * 200)


def diffusers_name(name: str) -> str:
    return re.sub("|".join(ATTENTION), lambda found: ATTENTION[found[0]], name)


def official_tokenizer(folder: Path) -> Any:
    """Byte tokenizer that appends <|endoftext|>, like that of Qwen3-Embedding."""
    from tokenizers.processors import TemplateProcessing
    from transformers import Qwen2Tokenizer

    tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", END_OF_TEXT)])
    return tokenizer


def text_model(checkpoint: Checkpoint) -> nn.Module:
    from transformers import Qwen3Config, Qwen3Model

    weights = checkpoint.text_encoder_weights()
    vocabulary, width = weights.shape("embed_tokens.weight")
    model = Qwen3Model(Qwen3Config(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )).eval()  # fmt: skip
    model.load_state_dict({name: weights.tensor(name, torch.float32, CPU) for name in weights.names})
    return model


def condition_encoder(checkpoint: Checkpoint, silence: Tensor) -> nn.Module:
    from diffusers.pipelines.ace_step.modeling_ace_step import AceStepConditionEncoder

    weights = checkpoint.model_weights()
    model = AceStepConditionEncoder(
        hidden_size=64, intermediate_size=96, text_hidden_dim=32, num_lyric_encoder_hidden_layers=2,
        num_timbre_encoder_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=weights.shape("encoder.lyric_encoder.layers.0.self_attn.k_proj.weight")[0] // 16,
        head_dim=16).eval()
    encoder = weights.under("encoder.")
    state = {diffusers_name(name): encoder.tensor(name, torch.float32, CPU) for name in encoder.names}
    state["null_condition_emb"] = weights.tensor("null_condition_emb", torch.float32, CPU)
    model.load_state_dict(state | {"silence_latent": silence})
    return model


class Official:
    """diffusers' pipeline, with the components that encode conditions."""

    def __init__(self, checkpoint: Checkpoint, tokenizer_folder: Path, source: TinySource) -> None:
        from diffusers import AceStepPipeline

        self.encoder = condition_encoder(checkpoint, source.silence_latent(15000)[None])
        self.pipeline = AceStepPipeline(
            vae=None, text_encoder=text_model(checkpoint), tokenizer=official_tokenizer(tokenizer_folder),
            transformer=None, condition_encoder=self.encoder, scheduler=None)

    def typed(self, prompt: Prompt) -> dict[str, Any]:
        """Build the form fields from the choices of ComfyUI's lists."""
        return {"bpm": prompt.bpm, "keyscale": {" a min ": "A minor"}.get(prompt.key, prompt.key),
                "timesignature": prompt.signature.split("/")[0].strip(), "audio_duration": prompt.seconds}

    def texts(self, prompt: Prompt) -> tuple[str, str]:
        texts: tuple[str, str] = self.pipeline._format_prompt(
            prompt.caption, prompt.lyrics, prompt.language.strip().lower(), **self.typed(prompt))
        return texts

    @torch.no_grad()
    def condition(self, prompt: Prompt) -> Tensor:
        text, text_mask, lyrics, lyrics_mask = self.pipeline.encode_prompt(
            prompt.caption, prompt.lyrics, CPU, prompt.language.strip().lower(), **self.typed(prompt))
        timbre = self.encoder.silence_latent[:, :OFFICIAL_TIMBRE_FRAMES]
        packed, mask = self.encoder(text, text_mask, lyrics, lyrics_mask, timbre, torch.zeros(1, dtype=torch.long))
        assert mask.all()
        condition: Tensor = packed[0]
        return condition


@pytest.fixture(scope="module")
def source(tokenizer_folder: Path) -> TinySource:
    return TinySource(tokenizer_folder, [])


@pytest.fixture(scope="module")
def official(checkpoint: Checkpoint, tokenizer_folder: Path, source: TinySource) -> Official:
    return Official(checkpoint, tokenizer_folder, source)


@pytest.fixture
def encoded(checkpoint: Checkpoint, source: TinySource, tmp_path: Path) -> Callable[[Prompt, str], Tensor]:
    """Return the condition that encoding writes to a file."""
    def condition(prompt: Prompt, style: str) -> Tensor:
        path = tmp_path / "one.condition.safetensors"
        encode_conditions(source, checkpoint, {path: ("song", prompt)}, style, CPU, lambda *_: None)
        return read_tensors(path)["condition"]

    return condition


@pytest.mark.parametrize("prompt", [*TWENTY.values(), LONG], ids=[*TWENTY, "longest"])
def test_texts_match_official(official: Official, prompt: Prompt) -> None:
    official_prompt = replace(prompt, style=OFFICIAL)
    assert (official_prompt.caption_text, official_prompt.lyrics_text) == official.texts(prompt)


@pytest.mark.parametrize("prompt", [*TWENTY.values(), LONG], ids=[*TWENTY, "longest"])
def test_conditions_match_diffusers(official: Official, encoded: Callable[[Prompt, str], Tensor],
                                    prompt: Prompt) -> None:
    expected = official.condition(prompt)
    found = encoded(prompt, OFFICIAL)
    assert deviation(found, expected) <= FP32
    assert deviation(found * (1 + PERTURBED), expected) > FP32


def test_missing_windows_are_detected(official: Official, encoded: Callable[[Prompt, str], Tensor],
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """With equal tokens and timbre, the windows alone change the condition."""
    from sidestep_core.dataset import conditions

    prompt = replace(TWENTY["english"], lyrics="Hold the light\n" * 30)
    expected = official.condition(prompt)
    load = conditions.load_condition_encoder
    monkeypatch.setattr(conditions, "load_condition_encoder",
                        lambda *arguments, style, **options: load(*arguments, style=COMFYUI, **options))
    found = encoded(prompt, OFFICIAL)
    lyrics = len(prompt.lyrics_text) - 2 * len("<|endoftext|>") + 2
    assert deviation(found[:lyrics], expected[:lyrics]) > PERTURBED
    assert deviation(found[lyrics:lyrics + 1], expected[lyrics:lyrics + 1]) > PERTURBED
    assert deviation(found[lyrics + 1:], expected[lyrics + 1:]) <= FP32


@pytest.mark.parametrize("name", ["english", "instrumental", "escapes"])
def test_styles_differ(official: Official, encoded: Callable[[Prompt, str], Tensor], name: str) -> None:
    expected, found = official.condition(TWENTY[name]), encoded(TWENTY[name], COMFYUI)
    assert found.shape != expected.shape or deviation(found, expected) > PERTURBED


def test_long_texts_are_truncated(checkpoint: Checkpoint, tokenizer_folder: Path) -> None:
    texts = TextEncoder(checkpoint.text_encoder_weights(), tokenizer_folder, CPU)
    official_prompt = replace(LONG, style=OFFICIAL)
    for ids, text, limit in ((texts.caption_ids(official_prompt), official_prompt.caption_text, CAPTION_TOKENS),
                             (texts.lyrics_ids(official_prompt), official_prompt.lyrics_text, LYRICS_TOKENS)):
        assert ids == [*texts.tokenize(text)[:limit - 1], END_OF_TEXT]
        assert len(ids) == limit < len(texts.tokenize(text))
    assert len(texts.caption_ids(LONG)) > CAPTION_TOKENS


class WithToken(nn.Module):
    """Projection that prepends a token to its output."""

    def __init__(self, token: Tensor, projection: nn.Module) -> None:
        super().__init__()
        self.token, self.projection = token, projection

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.token, self.projection(x)), dim=1)


def test_xl_timbre_uses_its_token(tokenizer_folder: Path, source: TinySource, tmp_path: Path) -> None:
    paths = write_tiny_models(tmp_path, XL_LIKE, dtype=torch.float32)
    checkpoint = open_checkpoint(paths.model, text_encoder=paths.text_encoder, vae=paths.vae)
    assert checkpoint.has_timbre_token
    official = Official(checkpoint, tokenizer_folder, source)
    prompt, path = TWENTY["english"], tmp_path / "xl.condition.safetensors"
    encode_conditions(source, checkpoint, {path: ("song", prompt)}, OFFICIAL, CPU, lambda *_: None)
    found = read_tensors(path)["condition"]
    place = len(prompt.lyrics_text) - 2 * len("<|endoftext|>") + 2
    without = official.condition(prompt)
    assert ((found - without).abs().amax(dim=1) > PERTURBED).nonzero().flatten().tolist() == [place]
    timbre = official.encoder.timbre_encoder
    timbre.embed_tokens = WithToken(timbre.special_token.detach(), timbre.embed_tokens)
    assert deviation(found, official.condition(prompt)) <= FP32


def test_only_xl_has_timbre_token(checkpoint: Checkpoint) -> None:
    assert "encoder.timbre_encoder.special_token" in checkpoint.model_weights().names
    assert not checkpoint.has_timbre_token
