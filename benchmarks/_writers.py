"""Writes adapters with the programs that train them, and measures on the training side what each truly adds.

What is true is the adapted layer's answer to the identity, less the layer's own, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sidestep_core.adapters import file
from sidestep_core.adapters.algorithm import LiveAdapter
from sidestep_core.io.tensors import read_tensors, write_tensors

Weights = Mapping[str, Tensor]
"""A decoder's matrices and convolutions by module name, float32."""
Truth = Mapping[str, Tensor]
"""Module -> what strength 1.0 adds to its weight, float64, of the weight's shape."""

RANK, ALPHA = 4, 8.0
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
ATTENTION = r".*_attn\.[qkvo]_proj"
PEFT_FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class Made:
    """An adapter file and its true effect."""

    path: Path
    truth: Truth
    alpha: float = 0.0
    """Alpha that the user has to give, where no other source has one."""


def tree(weights: Weights, inside: str = "") -> nn.Module:
    """Plain torch layers with these weights, under these names; biases are zero."""
    root = nn.Module()
    for name, weight in weights.items():
        *parents, last = (f"{inside}.{name}" if inside else name).split(".")
        place = root
        for parent in parents:
            if not hasattr(place, parent):
                place.add_module(parent, nn.Module())
            place = place.get_submodule(parent)
        if weight.dim() == 2:
            layer: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        else:
            layer = nn.Conv1d(weight.shape[1], weight.shape[0], weight.shape[2], stride=weight.shape[2], bias=False)
        layer.weight.data = weight.clone()
        place.add_module(last, layer)
    root.forward = lambda x: x
    return root


def truth_of(layers: Mapping[str, nn.Module], weights: Weights) -> dict[str, Tensor]:
    """True deltas of the adapted layers."""
    found = {}
    for name, layer in layers.items():
        weight = weights[name]
        layer.double().eval()
        inputs = torch.eye(weight[0].numel(), dtype=torch.float64)
        with torch.no_grad():
            answers = layer(inputs.reshape(-1, *weight.shape[1:])).flatten(1).T
        found[name] = answers.reshape(weight.shape) - weight.double()
    return found


def randomise(model: nn.Module, trained: Iterable[nn.Parameter] = ()) -> None:
    """Move all trained parameters, until the change is as large as the weights."""
    random = torch.Generator().manual_seed(1)
    known = {id(parameter) for parameter in model.parameters()}
    more = [("", parameter) for parameter in trained if id(parameter) not in known]
    for name, parameter in [*model.named_parameters(), *more]:
        noise = torch.randn(parameter.shape, generator=random)
        if "magnitude" in name or "dora_scale" in name:
            parameter.data *= 1 + 0.2 * noise
        elif "scalar" in name:
            parameter.data.fill_(1.3)
        elif name.endswith("rescale"):
            parameter.data = 1 + 0.2 * noise
        elif parameter.requires_grad:
            parameter.data = noise * 0.2


def peft(folder: Path, weights: Weights, inside: str = "", kind: str = "LoraConfig", **settings: Any) -> Made:
    """A folder that PEFT saved."""
    import peft as package

    defaults = {"r": RANK, "target_modules": ATTENTION}
    defaults |= {"lora_alpha": ALPHA} if kind == "LoraConfig" else {"alpha": ALPHA}
    model = package.get_peft_model(tree(weights, inside), getattr(package, kind)(**(defaults | settings)))
    randomise(model)
    model.save_pretrained(str(folder))
    dot = f"{inside}." if inside else ""
    layers = {name.removeprefix(dot): layer for name, layer in model.base_model.model.named_modules()
              if name.removeprefix(dot) in weights and hasattr(layer, "base_layer")}
    return Made(folder / PEFT_FILE, truth_of(layers, weights))


def rewritten(made: Made, change: Callable[[str, Tensor], Iterator[tuple[str, Tensor]]], *, config: bool = False,
              alone: bool = False) -> Made:
    """Rewrite an adapter under other keys.  `config`: its settings stay; `alone`: the user gives the alpha."""
    tensors = {key: value for name, tensor in read_tensors(made.path).items() for key, value in change(name, tensor)}
    place = made.path.parent if config else made.path.parent / "alone"
    write_tensors(place / "my lora.safetensors", tensors)
    return Made(place / "my lora.safetensors", made.truth, ALPHA if alone else 0.0)


def renamed(*changes: tuple[str, str], alpha: float | None = ALPHA, flat: str | None = None) -> Callable[
        [str, Tensor], Iterator[tuple[str, Tensor]]]:
    """Keys with pieces replaced; `alpha` is written with each lora_A; `flat` joins the module's name to a prefix."""
    def change(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        for old, new in changes:
            name = name.replace(old, new)
        for ending in (".lora_A", ".lora_B", ".lora_down", ".lora_up"):
            if ending in name:
                module, rest = name.split(ending)
                module = module if flat is None else flat + module.replace(".", "_")
                yield f"{module}{ending}{rest}", tensor
                if alpha is not None and ending in (".lora_A", ".lora_down"):
                    yield f"{module}.alpha", torch.tensor(alpha)
                return
        yield name, tensor

    return change


KOHYA = ((".lora_A.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_up.weight"))
MODEL = "base_model.model."
DEFAULT = ((".lora_A.weight", ".lora_A.default.weight"), (".lora_B.weight", ".lora_B.default.weight"))


def lycoris(folder: Path, weights: Weights, algo: str = "lokr", *, metadata: dict[str, str] | None = None,
            everything: bool = False, suffix: str = ".safetensors", **settings: Any) -> Made:
    """A file that LyCORIS saved.  `everything`: called as ACE-Step's trainers do, which wraps every layer."""
    from lycoris import LycorisNetwork

    model = tree(weights)
    dim, alpha = settings.pop("dim", RANK), settings.pop("alpha", ALPHA)
    classes, names = LycorisNetwork.TARGET_REPLACE_MODULE, LycorisNetwork.TARGET_REPLACE_NAME
    LycorisNetwork.apply_preset({"target_name": list(PROJECTIONS)} if everything else
                                {"target_name": [ATTENTION], "target_module": []})
    try:
        network = LycorisNetwork(model, 1.0, lora_dim=dim, alpha=alpha, conv_lora_dim=dim, conv_alpha=alpha,
                                 network_module=algo, **settings)
    finally:
        LycorisNetwork.apply_preset({"target_name": names, "target_module": classes})
    network.apply_to()
    randomise(network)
    path = folder / f"lokr_weights{suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    network.save_weights(str(path), None, metadata or {})
    flat = {name.replace(".", "_"): name for name in weights}
    adapted = {flat[one.lora_name.removeprefix("lycoris_")]: one for one in network.loras}
    if algo in ("diag-oft", "boft"):
        # Their rotations are made in float32 whatever they are asked for; they are read from the adapter instead.
        return Made(path, {name: rotated(one, weights[name]) for name, one in adapted.items()})
    for one in network.loras:
        one.double()
    return Made(path, truth_of({name: model.get_submodule(name) for name in adapted}, weights))


def rotated(one: nn.Module, weight: Tensor) -> Tensor:
    """Delta of an OFT or BOFT of LyCORIS, in float64, by its definition."""
    with torch.no_grad():
        blocks = one.oft_blocks.double()
        skew = blocks - blocks.transpose(-1, -2)
        if one.constraint > 0:
            skew = skew * min(1.0, one.constraint / (float(skew.norm()) + 1e-8))
        unit = torch.eye(blocks.shape[-1], dtype=torch.float64)
        turns = (unit + skew) @ (unit - skew).inverse()
        found = weight.double()
        if turns.dim() == 3:
            count, size, _ = turns.shape
            found = torch.einsum("knm,kn...->km...", turns, found.unflatten(0, (count, size))).flatten(0, 1)
        else:
            for level, turn in enumerate(turns):
                stride = 2**level * (blocks.shape[-1] // 2)
                order = torch.arange(len(weight)).unflatten(0, (-1, 2, stride)).transpose(1, 2).flatten()
                mixed = torch.einsum("bij,bj...->bi...", turn, found[order].unflatten(0, (-1, blocks.shape[-1])))
                found = torch.empty_like(found).index_copy(0, order, mixed.flatten(0, 1))
        if one.rescaled:
            found = one.rescale.double() * found
        return found - weight.double()


def side_step(folder: Path, weights: Weights, attach: Callable[[nn.Module], LiveAdapter]) -> Made:
    """A file of our own; `attach` puts the adapter on a decoder."""
    model = tree(weights)
    live = attach(model)
    randomise(model, live.parameters)
    file.write(folder / "own.safetensors", live.state_dict(), {})
    adapted = [change.module for change in live.deltas()]
    for parameter in live.parameters:
        parameter.data = parameter.data.double()
    return Made(folder / "own.safetensors", truth_of({name: model.get_submodule(name) for name in adapted}, weights))
