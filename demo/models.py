"""Model files of the demo's workflow, and the workflow filled with them."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .server import Prompt

AUTOMATIC = "automatic"
"""Choice of Side-Step's loader node that finds a file by itself."""
SPLIT_FOLDERS = ("diffusion_models", "unet")
ALL_IN_ONE_PREFIXES = ("model.diffusion_model.", "vae.")
LONGEST_HEADER = 100_000_000


class DemoError(RuntimeError):
    """Failure of the demo: it cannot run, or its result is wrong."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """File names as ComfyUI lists them; `folders` maps ComfyUI's name of a kind to the folder that holds it.

    For an all-in-one file the other three parts are AUTOMATIC: they are in the file itself."""

    model: str
    text_encoder: str
    language_model: str
    vae: str
    folders: Mapping[str, Path]
    all_in_one: bool = False


def read_header(path: Path) -> dict[str, Any]:
    """Read the header of a safetensors file.  Raises DemoError if it is not one, or is truncated."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= LONGEST_HEADER:
            raise DemoError(f"{path} is not a safetensors file.")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
        except ValueError:
            raise DemoError(f"{path} is not a safetensors file, or its start is damaged.") from None
    end = 8 + length + max(tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__")
    if path.stat().st_size != end:
        raise DemoError(f"{path} has {path.stat().st_size} bytes, its header states {end}. Download or copy it again.")
    return header


def model_files(path: Path) -> ModelFiles:
    """Find the files of a checkpoint: an all-in-one file, or a diffusion model inside a ComfyUI models folder.

    Raises DemoError naming the missing file and the folder searched."""
    if not path.is_file():
        raise DemoError(f"There is no file {path}. Give a .safetensors file of ACE-Step 1.5.")
    names = read_header(path)
    if all(any(name.startswith(prefix) for name in names) for prefix in ALL_IN_ONE_PREFIXES):
        return ModelFiles(model=path.name, text_encoder=AUTOMATIC, language_model=AUTOMATIC, vae=AUTOMATIC,
                          folders={"checkpoints": path.parent}, all_in_one=True)
    root = next((parent for parent in path.parents if parent.name in SPLIT_FOLDERS), None)
    if root is None:
        raise DemoError(f"{path} holds no text encoder and VAE, and is not in a models/diffusion_models folder beside "
                        "which they could be found. Move it into the models folder of a ComfyUI.")
    encoders, vaes = root.parent / "text_encoders", root.parent / "vae"
    return ModelFiles(
        model=path.relative_to(root).as_posix(),
        text_encoder=find(encoders, ["*0.6b*"], "the text encoder (qwen_0.6b_ace15.safetensors)"),
        language_model=find(encoders, ["*1.7b*", "*4b*"], "the language model (qwen_1.7b_ace15.safetensors)"),
        vae=find(vaes, ["*ace*vae*"], "the VAE (ace_1.5_vae.safetensors)"),
        folders={"diffusion_models": root, "text_encoders": encoders, "vae": vaes})


def find(folder: Path, patterns: Iterable[str], what: str) -> str:
    """Find the first file that matches, as ComfyUI names it."""
    for pattern in patterns:
        found = sorted(folder.rglob(f"{pattern}.safetensors"))
        if found:
            return found[0].relative_to(folder).as_posix()
    raise DemoError(f"{what} is missing; looked in {folder}. Put it there.")


def own_model(models: Path) -> Path | None:
    """Find an ACE-Step 1.5 model in the models folder of the user's own ComfyUI."""
    for folder in (*SPLIT_FOLDERS, "checkpoints"):
        for path in sorted((models / folder).rglob("*.safetensors")):
            name = path.name.lower().replace("-", "_")
            if "1.5" in name and ("acestep" in name or "ace_step" in name):
                return path
    return None


def with_models(prompt: Prompt, files: ModelFiles) -> dict[str, Any]:
    """Fill the workflow's loaders with these files."""
    filled: dict[str, Any] = copy.deepcopy(dict(prompt))
    kind = "checkpoints" if files.all_in_one else "diffusion_models"
    loaders = {
        "SideStepLoadACEStepCheckpoint": {
            "model": f"{kind}/{files.model}", "text_encoder": files.text_encoder, "vae": files.vae},
        "UNETLoader": {"unet_name": files.model},
        "DualCLIPLoader": {"clip_name1": files.text_encoder, "clip_name2": files.language_model},
        "VAELoader": {"vae_name": files.vae},
    }
    for node in filled.values():
        node["inputs"].update(loaders.get(node["class_type"], {}))
    return with_one_loader(filled, files.model) if files.all_in_one else filled


def with_one_loader(prompt: dict[str, Any], name: str) -> dict[str, Any]:
    """Replace the workflow's three loaders with one CheckpointLoaderSimple."""
    outputs = {"UNETLoader": 0, "DualCLIPLoader": 1, "VAELoader": 2}
    replaced = {node: outputs[content["class_type"]] for node, content in prompt.items()
                if content["class_type"] in outputs}
    kept = {node: content for node, content in prompt.items() if node not in replaced}
    for content in kept.values():
        for key, value in content["inputs"].items():
            if isinstance(value, list) and value[0] in replaced:
                content["inputs"][key] = ["checkpoint", replaced[value[0]]]
    return kept | {"checkpoint": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}}}
