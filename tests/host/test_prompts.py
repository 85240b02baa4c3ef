"""Twenty prompts of every kind become the host's own tokens and hidden states.

Text encoder, tokenizer and condition encoder are the host's classes.  Its text encoder has its first layers only, which
any mistake in text or masks would pass through just the same; test_conditions.py has all of them inside the sampler.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from demo.synthetic_model import DEMO_MODEL
from sidestep_core.model.checkpoint import Checkpoint
from sidestep_core.model.condition_encoder import ConditionEncoder, TextEncoder, load_condition_encoder
from sidestep_core.model.prompts import OFFICIAL, Prompt
from sidestep_core.model.weights import Weights
from tests.host.pack import pack_module
from tests.prompts import TWENTY
from tests.tolerance import FP32, PERTURBED, deviation

CPU = torch.device("cpu")
LAYERS = 2


@dataclass
class Host:
    """The host's tokenizer, text encoder and condition encoder, and its silence."""

    tokenizer: Any
    texts: Any
    encoder: Any
    source: Any

    def tokens(self, prompt: Prompt) -> dict[str, Any]:
        """Text that the node TextEncodeAceStepAudio1.5 makes, without unknown fields."""
        known = {"bpm": prompt.bpm, "keyscale": {"": None, " a min ": "A minor"}.get(prompt.key, prompt.key),
                 "timesignature": int(prompt.signature.split("/")[0]) if prompt.signature else None}
        fields = {name: value for name, value in known.items() if value is not None}
        tokens: dict[str, Any] = self.tokenizer.tokenize_with_weights(
            prompt.caption, lyrics=prompt.lyrics, duration=prompt.seconds, language=prompt.language.strip().lower(),
            generate_audio_codes=False, seed=0, **fields)
        return tokens

    def encode(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """Hidden states of the caption, embedding rows of the lyrics; as the host's CLIP goes about it."""
        self.texts.qwen3_06b.reset_clip_options()
        caption, _, extra = self.texts.encode_token_weights(self.tokens(prompt))
        return caption, extra["conditioning_lyrics"]

    def condition(self, caption: Tensor, lyrics: Tensor, timbre: Tensor) -> Tensor:
        """[B, S, D]"""
        condition: Tensor = self.encoder(caption, None, lyrics, None, timbre, torch.zeros(1, dtype=torch.long))[0]
        return condition


def first_layers(weights: Weights) -> Weights:
    deeper = tuple(f"layers.{number}." for number in range(LAYERS, weights.depth()))
    kept = {name: stored for name, stored in weights._stored.items() if not name.startswith(deeper)}
    return Weights(kept, weights.label)


@pytest.fixture(scope="module")
def weights(checkpoint: Checkpoint) -> Weights:
    return first_layers(checkpoint.text_encoder_weights())


@pytest.fixture(scope="module")
def host(comfy: ModuleType, demo_models: Path, weights: Weights) -> Host:
    import comfy.text_encoders.ace15 as ace15

    texts = ace15.ACE15TEModel(dtype=torch.float32,
                               model_options={"_model_config": {"num_hidden_layers": LAYERS}})
    texts.load_sd({f"model.{name}": weights.tensor(name, torch.float32, CPU) for name in weights.names})
    model = comfy.sd.load_diffusion_model(str(demo_models / DEMO_MODEL), model_options={"dtype": torch.float32})
    return Host(tokenizer=ace15.ACE15Tokenizer(), texts=texts, encoder=model.model.diffusion_model.encoder,
                source=pack_module("nodes.host.models").HostModels())


@pytest.fixture(scope="module")
def text_encoder(weights: Weights, host: Host) -> TextEncoder:
    return TextEncoder(weights, host.source.tokenizer_folder, CPU)


@pytest.fixture(scope="module")
def encoder(checkpoint: Checkpoint) -> ConditionEncoder:
    return load_condition_encoder(checkpoint.model_weights().under("encoder."), torch.float32, CPU)


@pytest.mark.parametrize("prompt", TWENTY.values(), ids=TWENTY)
def test_tokens_match_the_host(host: Host, text_encoder: TextEncoder, prompt: Prompt) -> None:
    tokens = host.tokens(prompt)
    assert text_encoder.caption_ids(prompt) == [token for token, *_ in tokens["qwen3_06b"][0]]
    assert text_encoder.lyrics_ids(prompt) == [token for token, *_ in tokens["lyrics"][0]]


@pytest.mark.parametrize("prompt", TWENTY.values(), ids=TWENTY)
@torch.no_grad()
def test_hidden_states_match_the_host(host: Host, text_encoder: TextEncoder, encoder: ConditionEncoder,
                                      prompt: Prompt) -> None:
    expected, rows = host.encode(prompt)
    caption, lyrics = text_encoder.encode_caption(prompt), text_encoder.embed_lyrics(prompt)
    assert torch.equal(lyrics, rows)
    assert deviation(caption, expected) <= FP32
    assert deviation(caption * (1 + PERTURBED), expected) > FP32
    timbre = host.source.silence_latent(prompt.timbre_frames)[None]
    condition = host.condition(expected, rows, timbre)
    found = encoder(caption, lyrics, timbre)
    assert deviation(found, condition) <= FP32
    assert deviation(found * (1 + PERTURBED), condition) > FP32


@torch.no_grad()
def test_other_words_change_the_states(host: Host, text_encoder: TextEncoder) -> None:
    prompt = TWENTY["english"]
    expected, _ = host.encode(prompt)
    other = text_encoder.encode_caption(replace(prompt, caption=prompt.caption.replace("80s", "90s")))
    assert deviation(other, expected) > FP32
    official = replace(prompt, style=OFFICIAL)
    assert text_encoder.caption_ids(official) != [token for token, *_ in host.tokens(prompt)["qwen3_06b"][0]]
    assert text_encoder.lyrics_ids(official) == [token for token, *_ in host.tokens(prompt)["lyrics"][0]]
