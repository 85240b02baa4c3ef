"""Loads diffusion model files with ComfyUI's own loader and writes the weights it computes with.

    python dump_host_weights.py COMFYUI FOLDER

For every FOLDER/*.safetensors, FOLDER/<stem>/{float32,bfloat16}.safetensors is written.  Runs as its own process, in
the host's interpreter, because the host wants sys.argv and the import path to itself.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(comfyui: str, folder: Path) -> None:
    """Every file, at two precisions."""
    sys.path.insert(0, comfyui)
    sys.argv = ["main.py", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.sd
    import comfy.utils
    import torch
    from comfy.quant_ops import QuantizedTensor

    def computed(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        cast = weight.detach().to(dtype)
        return cast.dequantize() if isinstance(cast, QuantizedTensor) else cast

    for path in sorted(folder.glob("*.safetensors")):
        weights = comfy.sd.load_diffusion_model(str(path)).model.diffusion_model.named_parameters()
        held = dict(weights)
        (folder / path.stem).mkdir()
        for dtype in (torch.float32, torch.bfloat16):
            tensors = {name: computed(weight, dtype).contiguous() for name, weight in held.items()}
            target = folder / path.stem / f"{dtype}.safetensors".removeprefix("torch.")
            comfy.utils.save_torch_file(tensors, str(target))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
