"""Parts of ComfyUI that the core uses: VAE, tokenizer and silence latent, and the LoRA loader for the proof."""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import comfy.lora
import comfy.lora_convert
import comfy.model_management
import comfy.sd
import comfy.supported_models
import comfy.text_encoders
import comfy.utils
import comfyui_version
import torch
from comfy.ldm.ace.ace_step15 import AceStepConditionGenerationModel, get_silence_latent
from torch import Tensor

from ...sidestep_core.adapters import formats
from ...sidestep_core.adapters.proof import DeltaFn
from ...sidestep_core.errors import AdapterError, CheckpointError
from ...sidestep_core.model import vae_keys
from ...sidestep_core.model.checkpoint import Checkpoint
from . import patches

log = logging.getLogger(__name__)


BUILDS_XL = "encoder_hidden_size" in inspect.signature(AceStepConditionGenerationModel.__init__).parameters
"""True where this ComfyUI builds a decoder wider than its condition encoder: 0.24.1 does, 0.18.2 does not."""


class HostModels:
    """The core's ModelSource, answered by ComfyUI."""

    @property
    def tokenizer_folder(self) -> Path:
        return Path(comfy.text_encoders.__path__[0]) / "qwen25_tokenizer"

    def audio_encoder(self, checkpoint: Checkpoint, device: torch.device) -> Callable[[Tensor], Tensor]:
        """ComfyUI's VAE in float32; the mean of its posterior, where ComfyUI's own node draws a random sample."""
        vae = comfy.sd.VAE(sd=vae_state(checkpoint), device=device, dtype=torch.float32)
        if vae.first_stage_model is None or vae.downscale_ratio != 1920:
            raise CheckpointError(f"ComfyUI cannot load {checkpoint.vae} as the VAE of ACE-Step 1.5. "
                                  "Choose ace_1.5_vae.safetensors as vae.")
        comfy.model_management.load_models_gpu([vae.patcher], force_full_load=True)

        def encode(waveform: Tensor) -> Tensor:
            mean, _ = vae.first_stage_model.encoder(waveform.to(device, torch.float32)).chunk(2, dim=1)
            return mean

        return encode

    def silence_latent(self, frames: int) -> Tensor:
        """[frames, 64]: what ComfyUI's sampler feeds where no reference is given."""
        return get_silence_latent(frames, torch.device("cpu"))[0].T.contiguous()


def require_buildable(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for a model that this ComfyUI cannot build: nothing trained on it could be used here."""
    if not BUILDS_XL and checkpoint.has_timbre_token:
        raise CheckpointError(
            f"ComfyUI {comfyui_version.__version__} cannot load models of the size of {checkpoint.name} "
            f"({checkpoint.size}), so an adapter trained on it would be of no use here. Update ComfyUI to 0.24.1 or "
            "newer, or choose a 2B model.")


def vae_state(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The VAE's weights as ComfyUI's VAE class takes them."""
    state = comfy.utils.load_torch_file(str(checkpoint.vae), safe_load=True)
    if checkpoint.vae_prefix:
        state = comfy.utils.state_dict_prefix_replace(state, {checkpoint.vae_prefix: ""}, filter_keys=True)
    return vae_keys.from_diffusers(state) if vae_keys.is_diffusers(state) else state


def device(name: str) -> str:
    """Device to compute on: the given one, or ComfyUI's own for "auto"."""
    return str(comfy.model_management.get_torch_device()) if name == "auto" else name


def make_room() -> None:
    """Move what ComfyUI holds on the device out of the way, for models that it does not manage."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


def load_as_comfyui(path: Path) -> DeltaFn:
    """Read an adapter file with ComfyUI's own loader, weight by weight: the proof that strength 1.0 is the trained one.

    The loader maps file keys to model keys by name; a model with the right names and tiny widths is all it needs.
    """
    tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    depth = 1 + max(int(layer) for key in tensors for layer in re.findall(r"layers[._](\d+)[._]", key))
    tiny = {"audio_model": "ace1.5", "num_dit_layers": depth, "hidden_size": 8, "intermediate_size": 8, "head_dim": 8,
            "num_heads": 1, "num_kv_heads": 1, "num_lyric_layers": 1, "num_timbre_layers": 1,
            "num_tokenizer_layers": 1, "fsq_dim": 8}
    if BUILDS_XL:
        tiny |= {"encoder_hidden_size": 8, "encoder_intermediate_size": 8, "encoder_num_heads": 1}
    config = comfy.supported_models.ACEStep15(tiny)
    # The host's own layers have no weights until a file is loaded into them, where it streams weights (DynamicVRAM).
    config.custom_operations = torch.nn
    model = config.get_model({})
    loaded = comfy.lora.load_lora(comfy.lora_convert.convert_lora(tensors), comfy.lora.model_lora_keys_unet(model, {}))

    def delta(module: str, weight: Tensor) -> Tensor | None:
        key = f"diffusion_model.decoder.{module}.weight"
        if key not in loaded:
            return None
        patch = [(1.0, loaded[key], 1.0, None, None)]
        # In the weight's own dtype: a change that depends on the weight comes in float64, or the subtraction would
        # drown it in rounding.
        return comfy.lora.calculate_weight(patch, weight.clone(), key, intermediate_dtype=weight.dtype) - weight

    return delta


def patch(model: object, path: Path, strength: float, alpha: float = 0.0,
          notify: Callable[[str], None] = log.warning) -> tuple[object, int, int]:
    """(patched clone of a MODEL, modules matched, modules in the file), from a file of any known layout.

    `alpha` counts for files that do not say theirs; `tell` is given a sentence for each thing that is not used.
    AdapterError when nothing matches, or anything is of another width: the host would carry on in silence, and the
    adapter would seem to do nothing, or half of it.
    """
    if not math.isfinite(strength):
        raise AdapterError(f"strength is {strength}; it must be a number. 1.0 is exactly what was trained.")
    file = formats.read(path, alpha)
    formats.require_use(alpha, [file])
    weights = model.model.state_dict().keys()

    def shape_of(key: str) -> torch.Size | None:
        # By attribute, not by state dict: there a packed 4-bit weight has the shape of its storage.
        return comfy.utils.get_attr(model.model, key).shape if key in weights else None

    found = patches.of(file, shape_of, comfy.lora.model_lora_keys_unet(model.model, {}))
    if file.notice:
        notify(file.notice)
    if found.left_out:
        notify(f"{path.name}: {found.matched} of {file.total} modules matched. {found.left_out}.")
    patched = model.clone()
    if strength != 0:
        _add(patched, found.by_key, strength)
    if file.metadata:
        patched.set_attachments("lora_metadata", dict(file.metadata))
    return patched, found.matched, file.total


def _add(patched: object, found: Mapping[str, object], strength: float) -> None:
    """Add to a clone; before all else on a weight what is made for the weight as it was, such as DoRA."""
    added = patched.add_patches(found, strength)
    if len(added) != len(found):
        raise AdapterError(f"ComfyUI took {len(added)} of {len(found)} changes of the adapter. Please report this.")
    for key, change in found.items():
        if patches.before_others(change):
            patched.patches[key].insert(0, patched.patches[key].pop())
