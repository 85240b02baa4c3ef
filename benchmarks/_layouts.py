"""Adapters in every layout in the wild, by their real writers where those run here, with what each truly adds.

A row is (folder, base weights) -> the file, and what it adds to each module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks._writers import (
    ALPHA,
    DEFAULT,
    KOHYA,
    MODEL,
    PROJECTIONS,
    RANK,
    Made,
    Weights,
    lycoris,
    peft,
    renamed,
    rewritten,
    side_step,
)
from sidestep_core.adapters import registry
from sidestep_core.adapters.config import AdapterConfig
from sidestep_core.adapters.targets import target_modules
from sidestep_core.io import strict_json
from sidestep_core.io.atomic import write_json
from sidestep_core.io.tensors import read_tensors, write_tensors
from tests.adapters import KINDS

Row = Callable[[Path, Weights], Made]

LOKR_BLOCKS = {"factor": 4}


def side_step_dora(folder: Path, weights: Weights, *, two_axes: bool) -> Made:
    """The export of Side-Step: kohya's names, alpha, and the magnitude as dora_scale."""
    def change(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        if name.endswith("lora_magnitude_vector"):
            yield name.replace("lora_magnitude_vector", "dora_scale"), tensor[:, None] if two_axes else tensor
        else:
            yield from renamed(*KOHYA)(name, tensor)

    return rewritten(peft(folder, weights, use_dora=True), change)


def baked(folder: Path, weights: Weights) -> Made:
    """DoRA as a full change."""
    made = peft(folder, weights, use_dora=True)
    path = folder / "alone" / "baked.safetensors"
    write_tensors(path, {f"diffusion_model.decoder.{name}.diff": delta.float() for name, delta in made.truth.items()})
    return Made(path, {name: delta.float().double() for name, delta in made.truth.items()})


def diffusers(folder: Path, weights: Weights) -> Made:
    """File of diffusers' pipeline, with its own names for the projections."""
    from diffusers.loaders import AceStepLoraLoaderMixin

    made = peft(folder / "peft", weights)
    names = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "o_proj": "to_out.0"}
    change = renamed((MODEL, ""), *names.items(), alpha=None)
    layers = {key: value for name, tensor in read_tensors(made.path).items() for key, value in change(name, tensor)}
    config = {key: value for key, value in strict_json.read(folder / "peft" / "adapter_config.json").items()
              if key in ("r", "lora_alpha", "alpha_pattern", "rank_pattern", "use_rslora", "peft_type")}
    AceStepLoraLoaderMixin.save_lora_weights(folder, layers, transformer_lora_adapter_metadata=config)
    return Made(folder / "pytorch_lora_weights.safetensors", made.truth)


def ranked(folder: Path, weights: Weights) -> Made:
    """Ranks and alphas that differ from module to module, as PEFT keeps them."""
    return peft(folder, weights, rank_pattern={"q_proj": 2, r"layers\.1\.cross_attn\.v_proj": 7},
                alpha_pattern={"q_proj": 3, "o_proj": 10.0})


def with_own_alphas(made: Made) -> Made:
    """Replace the settings by an alpha per module."""
    config = strict_json.read(made.path.parent / "adapter_config.json")

    def change(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        ends = [value for end, value in config["alpha_pattern"].items() if name.split(".lora_")[0].endswith(end)]
        yield from renamed(*KOHYA, alpha=ends[0] if ends else ALPHA)(name, tensor)

    return rewritten(made, change)


def pickled(made: Made) -> Made:
    """Save with torch.save, inside a dictionary."""
    path = made.path.parent / "adapter_model.bin"
    torch.save({"state_dict": read_tensors(made.path), "epoch": 3}, path)
    return Made(path, made.truth)


def legacy(folder: Path, weights: Weights) -> Made:
    """A checkpoint folder of Side-Step before 1.0: PEFT's files, and those for resuming."""
    made = peft(folder, weights)
    torch.save({"epoch": 3, "optimizer_state_dict": {}}, folder / "training_state.pt")
    return Made(folder, made.truth)


def rslora_with_plain_alpha(folder: Path, weights: Weights) -> Made:
    """alpha / sqrt(rank), with a plain alpha in the file; only adapter_config.json has the root."""
    return rewritten(peft(folder, weights, use_rslora=True), renamed(), config=True)


def everywhere(folder: Path, weights: Weights) -> Made:
    """ai-toolkit: also MLP and embeddings, alpha equal to the rank and not written."""
    targets = r".*(_attn\.[qkvo]_proj|mlp\.\w+_proj|linear_[12]|time_proj|condition_embedder)"
    made = peft(folder, weights, lora_alpha=RANK, target_modules=targets)
    return rewritten(made, renamed((MODEL, "diffusion_model.decoder."), alpha=None))


def lokr_config(**values: float) -> dict[str, str]:
    return {"algo": "lokr", "format": "lycoris", "lokr_config": json.dumps(values)}


def whole_without_settings(folder: Path, weights: Weights) -> Made:
    """PEFT's LoKR of two whole matrices, whose scale only adapter_config.json has."""
    return peft(folder, weights, kind="LoKrConfig", r=200, alpha=500)


def beside_another(made: Made, **settings: object) -> Made:
    """Put the settings of another adapter into the folder of a file."""
    write_json(made.path.parent / "adapter_config.json", settings)
    return made


def rank_64(folder: Path, weights: Weights) -> Made:
    """ai-toolkit's file with the rank of the LoRA whose settings are in its folder."""
    made = peft(folder, weights, r=64, lora_alpha=64)
    return beside_another(rewritten(made, renamed((MODEL, "diffusion_model.decoder."), alpha=None)),
                          peft_type="LORA", r=64, lora_alpha=128, target_modules=[*PROJECTIONS])


def kohya_beside_rslora(folder: Path, weights: Weights) -> Made:
    """kohya's names, with settings of equal rank and alpha in the folder, but by the root of the rank."""
    made = rewritten(peft(folder, weights), renamed((MODEL, "decoder."), *KOHYA, flat="lora_unet_"))
    return beside_another(made, peft_type="LORA", r=RANK, lora_alpha=ALPHA, use_rslora=True,
                          target_modules=[*PROJECTIONS])


def own(config: AdapterConfig) -> Row:
    """File of a training with this config."""
    def row(folder: Path, weights: Weights) -> Made:
        layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
        modules = target_modules(config, layers)
        return side_step(folder, weights, lambda decoder: registry.attach(decoder, config, modules, 0))

    return row


ROWS: dict[str, Row] = {
    "A  PEFT folder": peft,
    "A' PEFT file, alpha said": lambda f, w: rewritten(peft(f, w), renamed(alpha=None), alone=True),
    "B  PEFT + alpha": lambda f, w: rewritten(peft(f, w), renamed()),
    "C  Side-Step native": lambda f, w: rewritten(peft(f, w), renamed(*KOHYA)),
    "D  Side-Step generic": lambda f, w: rewritten(peft(f, w), renamed((MODEL, "diffusion_model.decoder."), *KOHYA)),
    "E  raw PEFT state": lambda f, w: rewritten(peft(f, w), renamed(*DEFAULT, alpha=None), config=True),
    "F  doubled prefix": lambda f, w: rewritten(peft(f, w), renamed((MODEL, 2 * MODEL), alpha=None), config=True),
    "G  kohya flat": lambda f, w: rewritten(peft(f, w), renamed((MODEL, "decoder."), *KOHYA, flat="lora_unet_")),
    "H  kohya flat, no decoder": lambda f, w: rewritten(peft(f, w), renamed((MODEL, ""), *KOHYA, flat="lora_unet_")),
    "I  diffusers": diffusers,
    "J  DiffSynth": lambda f, w: rewritten(peft(f, w), renamed((MODEL, ""), *DEFAULT, alpha=None), alone=True),
    "K  no decoder": lambda f, w: rewritten(peft(f, w), renamed((MODEL, "diffusion_model."))),
    "L  whole model PEFT": lambda f, w: peft(f, w, inside="decoder"),
    "M  ai-toolkit": everywhere,
    "N  rsLoRA": lambda f, w: peft(f, w, use_rslora=True),
    "N' rsLoRA, plain alpha": rslora_with_plain_alpha,
    "O  mixed ranks, PEFT": ranked,
    "O' mixed ranks, alphas": lambda f, w: with_own_alphas(ranked(f, w)),
    "P  DoRA, [out]": lambda f, w: side_step_dora(f, w, two_axes=False),
    "Q  DoRA, [out, 1]": lambda f, w: side_step_dora(f, w, two_axes=True),
    "R  DoRA, PEFT": lambda f, w: peft(f, w, use_dora=True),
    "R' DoRA, raw PEFT": lambda f, w: rewritten(
        peft(f, w, use_dora=True), renamed(*DEFAULT, ("_vector", "_vector.default.weight"), alpha=None), config=True),
    "S  DoRA, baked": baked,
    "T  LoKR, w2 in factors": lambda f, w: lycoris(f, w, **LOKR_BLOCKS),
    "U  LoKR, both in factors": lambda f, w: lycoris(f, w, dim=1, decompose_both=True, **LOKR_BLOCKS),
    "V  LoKR, both whole": lambda f, w: lycoris(f, w, dim=100, alpha=300.0, **LOKR_BLOCKS),
    "W  LoKR, scalar": lambda f, w: lycoris(f, w, use_scalar=True, **LOKR_BLOCKS),
    "X  LoKR + DoRA by rows": lambda f, w: lycoris(f, w, weight_decompose=True, **LOKR_BLOCKS),
    "Y  LoKR + DoRA by columns": lambda f, w: lycoris(f, w, weight_decompose=True, wd_on_out=False, **LOKR_BLOCKS),
    "Z  LoKR, rsLoRA": lambda f, w: lycoris(f, w, rs_lora=True, **LOKR_BLOCKS),
    "Z' LoKR, rsLoRA, both whole": lambda f, w: lycoris(
        f, w, dim=100, rs_lora=True, metadata=lokr_config(linear_dim=100, linear_alpha=8), **LOKR_BLOCKS),
    "AA LoKR on every layer": lambda f, w: lycoris(f, w, everything=True, factor=-1, dim=64),
    "AA' the same, low rank": lambda f, w: lycoris(f, w, everything=True, factor=4, dim=2),
    "AA' the same, DoRA by rows": lambda f, w: lycoris(f, w, everything=True, factor=4, dim=2, weight_decompose=True),
    "-- LoHA": lambda f, w: lycoris(f, w, "loha"),
    "-- LoHA + DoRA by columns": lambda f, w: lycoris(f, w, "loha", weight_decompose=True, wd_on_out=False),
    "-- LoCon": lambda f, w: lycoris(f, w, "locon"),
    "-- LoCon on every layer": lambda f, w: lycoris(f, w, "locon", everything=True),
    "-- LoCon + DoRA by rows": lambda f, w: lycoris(f, w, "locon", weight_decompose=True),
    "-- full, LyCORIS": lambda f, w: lycoris(f, w, "full"),
    "-- LoKR, PEFT": lambda f, w: peft(f, w, kind="LoKrConfig"),
    "-- LoKR, PEFT, both whole": whole_without_settings,
    "-- LoHA, PEFT": lambda f, w: peft(f, w, kind="LoHaConfig"),
    "-- LoKR, .pt": lambda f, w: lycoris(f, w, suffix=".pt", **LOKR_BLOCKS),
    "-- PEFT .bin": lambda f, w: pickled(peft(f, w)),
    "-- Side-Step checkpoint folder": legacy,
    "-- LoKR, tucker": lambda f, w: lycoris(f, w, everything=True, factor=4, dim=2, use_tucker=True),
    "-- DoRA on a convolution, PEFT": lambda f, w: peft(f, w, use_dora=True, target_modules=r"proj_in\.1"),
    "-- OFT": lambda f, w: lycoris(f, w, "diag-oft"),
    "-- OFT, constraint": lambda f, w: lycoris(f, w, "diag-oft", constraint=1e-3),
    "-- OFT, rescaled": lambda f, w: lycoris(f, w, "diag-oft", rescaled=True),
    "-- BOFT": lambda f, w: lycoris(f, w, "boft", dim=10),
    "-- GLoRA": lambda f, w: lycoris(f, w, "glora"),
    "-- rank 64, foreign settings": rank_64,
    "-- kohya, foreign settings": kohya_beside_rslora,
    "-- LoKR, whole, foreign settings": lambda f, w: beside_another(
        lycoris(f, w, dim=100, alpha=300.0, **LOKR_BLOCKS), peft_type="LORA", r=4, lora_alpha=2500),
    **{f"== {name}": own(config) for name, config in KINDS.items()},
}
"""Letters as in the list of layouts that ApplyAdapter promises to read; == is what this pack trains."""
