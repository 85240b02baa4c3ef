"""Other programs that read the adapters of this pack: ComfyUI's own loader, PEFT's folder, diffusers.

A judge is (a folder as a run leaves it, base weights) -> what that program adds to each module at strength 1.0.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._writers import Made, Truth, Weights, tree
from sidestep_core.adapters import file
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.keys import official
from sidestep_core.adapters.lora import LoraConfig
from sidestep_core.adapters.peft_layout import CONFIG_NAME, WEIGHTS_NAME
from sidestep_core.io.tensors import read_tensors
from tests.adapters import LORAS
from tests.host.pack import pack_module

HEAD = 32
Judge = Callable[[Made, Weights], Truth]

SUBSETS: Mapping[str, AdapterConfig] = {
    "subset": LoraConfig(rank=6, alpha=9.0, attention_type="cross", target_modules=("k_proj", "o_proj")),
    "one-by-one": LoraConfig(rank=4, alpha=7.0, self_target_modules=("q_proj",), cross_target_modules=("v_proj",),
                             target_mlp=True, module_ranks=("*.down_proj=3", "layers.0.*.q_proj=1")),
}
JUDGED = LORAS | SUBSETS
"""Configurations that every program must apply exactly."""


def write_peft_folder(made: Made) -> Path:
    """Write the PEFT folder of a run."""
    tensors, folder = read_tensors(made.path), made.path.parent
    file.write_peft_config(folder / CONFIG_NAME, tensors)
    file.write_peft_weights(folder / WEIGHTS_NAME, tensors, {})
    return folder


def comfyui(made: Made, weights: Weights) -> Truth:
    """Through ComfyUI's own loader."""
    added = pack_module("nodes.host.models").load_as_comfyui(made.path)
    found = {module: added(module, weight.double()) for module, weight in weights.items()}
    return {module: delta for module, delta in found.items() if delta is not None}


def peft(made: Made, weights: Weights) -> Truth:
    """Through PEFT, as ACE-Step's own program does it."""
    from peft import PeftModel

    with _no_warning():
        return _deltas(PeftModel.from_pretrained(tree(weights), str(write_peft_folder(made))).base_model.model)


def diffusers(made: Made, weights: Weights) -> Truth:
    """Through a pipeline's `load_lora_weights`; the published file, which has `.alpha` tensors too, must be the same
    to the loader beneath it."""
    pipeline, other = _pipeline(weights), _pipeline(weights)
    with _no_warning():
        pipeline.load_lora_weights(str(write_peft_folder(made)), weight_name=WEIGHTS_NAME)
        state, metadata = other.lora_state_dict(str(made.path.parent), weight_name=made.path.name,
                                                return_lora_metadata=True)
        other.load_lora_into_transformer(state, transformer=other.transformer, metadata=metadata)
    found, same = _deltas(pipeline.transformer), _deltas(other.transformer)
    return found if found.keys() == same.keys() and all(found[name].equal(same[name]) for name in found) else {}


JUDGES: Mapping[str, Judge] = {"comfyui": comfyui, "peft": peft, "diffusers": diffusers}


def error(judge: Judge, made: Made, weights: Weights) -> float:
    """The largest deviation of any weight, relative to its module's largest change; infinite for other modules."""
    found = judge(made, weights)
    if found.keys() != made.truth.keys():
        return float("inf")
    return max(float((found[name] - wanted).abs().max() / wanted.abs().max()) for name, wanted in made.truth.items())


@contextmanager
def _no_warning() -> Iterator[None]:
    """Whatever PEFT or diffusers warns of is an error: tensors without a place, settings that contradict them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=r".*(torch_dtype|deprecated).*")
        yield


def _deltas(model: nn.Module) -> dict[str, Tensor]:
    return {str(official(name)): layer.get_delta_weight(layer.active_adapters[0]).detach().double()
            for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight")}


def _pipeline(weights: Weights) -> Any:
    """A pipeline of diffusers that is nothing but its transformer, as large as these weights."""
    from diffusers import AceStepTransformer1DModel
    from diffusers.loaders import AceStepLoraLoaderMixin

    class Pipeline(AceStepLoraLoaderMixin):
        hf_device_map = None

        def __init__(self, transformer: nn.Module) -> None:
            self.transformer = transformer
            self.components: dict[str, nn.Module] = {}

    hidden = weights["layers.0.self_attn.q_proj"].shape[1]
    queries, keys = (len(weights[f"layers.0.self_attn.{part}_proj"]) for part in "qk")
    head = min(keys, HEAD)
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
    with torch.no_grad():
        return Pipeline(AceStepTransformer1DModel(
            hidden_size=hidden, intermediate_size=weights["layers.0.mlp.up_proj"].shape[0], num_hidden_layers=layers,
            num_attention_heads=queries // head, num_key_value_heads=keys // head, head_dim=head, in_channels=192,
            encoder_hidden_size=weights["condition_embedder"].shape[1]).eval())
