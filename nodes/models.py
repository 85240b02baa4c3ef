"""What the core borrows from ComfyUI: its VAE, tokenizer and silence latent, and its own LoRA loader as the judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import comfy.lora
import comfy.lora_convert
import comfy.model_management
import comfy.sd
import comfy.supported_models
import comfy.text_encoders
import comfy.utils
import torch
from comfy.ldm.ace.ace_step15 import get_silence_latent
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ..sidestep_core.adapter import Added, open_adapter
from ..sidestep_core.checkpoint import Checkpoint
from ..sidestep_core.errors import AdapterError, CheckpointError
from . import vae_names


class HostModels:
    """The core's ModelSource, answered by ComfyUI."""

    @property
    def tokenizer_folder(self) -> Path:
        return Path(comfy.text_encoders.__path__[0]) / "qwen25_tokenizer"

    def audio_encoder(self, checkpoint: Checkpoint, device: torch.device) -> Callable[[Tensor], Tensor]:
        """ComfyUI's VAE in float32; the mean of its posterior, where ComfyUI's own node draws a random sample."""
        state = comfy.utils.load_torch_file(str(checkpoint.vae), safe_load=True)
        if checkpoint.vae_prefix:
            state = comfy.utils.state_dict_prefix_replace(state, {checkpoint.vae_prefix: ""}, filter_keys=True)
        if vae_names.is_diffusers(state):
            state = vae_names.from_diffusers(state)
        vae = comfy.sd.VAE(sd=state, device=device, dtype=torch.float32)
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


def device(name: str) -> str:
    """Where to compute: as asked, or for "auto" where ComfyUI itself does."""
    return str(comfy.model_management.get_torch_device()) if name == "auto" else name


def make_room() -> None:
    """Move what ComfyUI holds on the device out of the way, for models that it does not manage."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


def load_as_comfyui(path: Path) -> Added:
    """What ComfyUI's own loader makes of an adapter file, weight by weight: the core's proof that strength 1.0 is true.

    The loader maps file keys to model keys by name; a model with the right names and tiny widths is all it needs.
    """
    tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    depth = 1 + max(int(key.split("layers.")[1].split(".")[0]) for key in tensors)
    tiny = {"audio_model": "ace1.5", "num_dit_layers": depth, "hidden_size": 128, "intermediate_size": 8,
            "num_heads": 1, "encoder_hidden_size": 8, "encoder_intermediate_size": 8, "encoder_num_heads": 1}
    config = comfy.supported_models.ACEStep15(tiny)
    # The host's own layers have no weights until a file is loaded into them, where it streams weights (DynamicVRAM).
    config.custom_operations = torch.nn
    model = config.get_model({})
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(tensors), comfy.lora.model_lora_keys_unet(model, {}))

    def added(module: str, shape: tuple[int, ...]) -> Tensor | None:
        key = f"diffusion_model.decoder.{module}.weight"
        if key not in patches:
            return None
        return comfy.lora.calculate_weight([(1.0, patches[key], 1.0, None, None)], torch.zeros(shape), key)

    return added


def patch(model: object, path: Path, strength: float) -> tuple[object, int, int]:
    """(patched clone of a MODEL, modules matched, modules in the file).

    AdapterError when nothing matches: the host would carry on in silence, and the adapter would seem to do nothing.
    """
    open_adapter(path)
    tensors, metadata = comfy.utils.load_torch_file(str(path), safe_load=True, return_metadata=True)
    total = len({_module(key) for key in tensors})
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(tensors), key_map)
    # By attribute, not by state dict: there a packed 4-bit weight has the shape of its storage.
    fitting = {key: patch for key, patch in patches.items()
               if _fits(patch, comfy.utils.get_attr(model.model, key if isinstance(key, str) else key[0]).shape)}
    patched = model.clone()
    matched = len(patched.add_patches(fitting, strength))
    if matched == 0:
        raise AdapterError(f"Nothing of {path.name} fits this model: 0 of {total} modules matched, {len(patches)} by "
                           "name. Is the model ACE-Step 1.5, and of the size (2B or XL) that the adapter is for?")
    if metadata:
        patched.set_attachments("lora_metadata", metadata)
    return patched, matched, total


def _fits(patch: object, shape: torch.Size) -> bool:
    """Whether a LoRA has the widths of the weight; the host would only log that it has not, and go on without it."""
    if not isinstance(patch, LoRAAdapter):
        return True
    up, down = patch.weights[0], patch.weights[1]
    return up.shape[0] == shape[0] and down.shape[1] == shape[1]


def _module(key: str) -> str:
    """The module that a tensor of an adapter file belongs to."""
    for part in (".lora_", ".lokr_", ".hada_", ".alpha", ".dora_scale", ".diff", ".w_norm", ".b_norm"):
        key = key.split(part)[0]
    return key
