"""Adapter files of every layout in the wild, read into one form: official module names and the true scale of each.

LoRA, DoRA, LoKR, LoHA and full changes, by whichever names PEFT, LyCORIS, kohya, diffusers, DiffSynth, ai-toolkit and
ACE-Step's own trainers give them.  What cannot be read is named; what is damaged is an AdapterError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from . import storage
from .adapter import METADATA_KEY, Adapter, Added, open_adapter
from .errors import AdapterError
from .factors import Full, LowRank, Piece
from .module_names import official
from .pieces import build
from .scales import Scales, read_settings

SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
"""Opened with weights_only, so that nothing in them can run."""
FOLDER_FILES = ("adapter_model.safetensors", "adapter_model.bin", "lokr_weights.safetensors",
                "loha_weights.safetensors", "pytorch_lora_weights.safetensors")  # fmt: skip
"""What the adapter is called where a folder is the adapter; the first that is there."""
HOST_PREFIX = "diffusion_model.decoder."
WIDTHS = {2048: "2B", 2560: "XL"}
SHOWN = 4

_KEY = re.compile(
    r"(?P<module>.+?)[._](?P<part>lora_A|lora_B|lora_down|lora_up|lora_mid|lora\.down|lora\.up"
    r"|lora_linear_layer\.down|lora_linear_layer\.up|lokr_w[12](?:_[ab])?|lokr_t2|hada_w[12]_[ab]|hada_t[12]"
    r"|lora_magnitude_vector|dora_scale|magnitude|alpha|scalar|diff|diff_b|w_norm|b_norm)"
    r"(?:\.(?!weight$|bias$)[^.]+)?(?P<leaf>\.weight|\.bias)?"
)
_PARTS = {
    "lora_A": "down", "lora_down": "down", "lora.down": "down", "lora_linear_layer.down": "down",
    "lora_B": "up", "lora_up": "up", "lora.up": "up", "lora_linear_layer.up": "up", "lora_mid": "mid",
    "lora_magnitude_vector": "magnitude", "dora_scale": "magnitude", "w_norm": "diff", "b_norm": "diff_b",
}  # fmt: skip


ShapeOf = Callable[[str], Sequence[int] | None]
"""A decoder's parameter, such as `layers.0.self_attn.q_proj.weight` -> its shape; None where it has no such."""


@dataclass(frozen=True)
class Content:
    """An adapter file, understood."""

    path: Path
    pieces: Mapping[str, Piece]
    """By official module name."""
    unknown: tuple[str, ...]
    """Keys that belong to no module of the decoder, or mean nothing known."""
    metadata: Mapping[str, str]
    asked_alpha: bool
    """Whether nothing but the given alpha says how strong it is."""

    @property
    def total(self) -> int:
        """Modules in the file, known or not."""
        return len(self.pieces) + len({_module_text(key) for key in self.unknown})

    def matched(self, shape_of: ShapeOf) -> dict[str, Piece]:
        """What fits a decoder; `shape_of` knows the shape of each of its parameters.

        AdapterError when nothing does, and when anything is of another width: half an adapter is another sound.
        """
        weights = {module: shape_of(f"{module}.weight") for module in self.pieces}
        known = {module: shape for module, shape in weights.items() if shape is not None}
        wrong = [module for module, shape in known.items() if not self.pieces[module].fits(shape)]
        if wrong:
            raise AdapterError(f"{self.path.name} is made for a model of another size{_sizes(self, known)}: "
                               f"{_widths(self.pieces[wrong[0]], wrong[0], known[wrong[0]])}. "
                               f"{len(known) - len(wrong)} of {self.total} modules matched, so nothing was applied. "
                               "Use it with the size of model that it was trained on.")
        if not known:
            found = _some([*self.pieces, *self.unknown]) or "no tensors"
            raise AdapterError(f"Nothing of {self.path.name} fits this model: 0 of {self.total} modules matched. It "
                               f"has {found}. Is it an adapter for ACE-Step 1.5, and is that the model?")
        fitting = {module: self.pieces[module] for module in known}
        return {module: piece if shape_of(f"{module}.bias") is not None else replace(piece, bias=None)
                for module, piece in fitting.items()}

    def left_out(self, matched: Mapping[str, Piece]) -> str:
        """What of the file is not among the matched, in words; "" when all is."""
        names = [*(module for module in self.pieces if module not in matched),
                 *(f"{module}.bias" for module, piece in matched.items() if piece.bias is not self.pieces[module].bias),
                 *self.unknown]
        return f"{len(names)} not used: {_some(names)}" if names else ""


def host_tensors(pieces: Mapping[str, Piece]) -> dict[str, Tensor]:
    """The same adapter in the host's own format, all but the magnitudes of DoRA."""
    return {f"{HOST_PREFIX}{module}.{ending}": tensor
            for module, piece in pieces.items() for ending, tensor in piece.host().items()}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _sizes(content: Content, known: Mapping[str, Sequence[int]]) -> str:
    """The two sizes by name, where both are known."""
    for module, shape in known.items():
        factors = content.pieces[module].factors
        if module.endswith("q_proj") and factors is not None and {factors.shape[1], shape[1]} <= WIDTHS.keys():
            return f" ({WIDTHS[factors.shape[1]]}, and this one is {WIDTHS[shape[1]]})"
    return ""


def _widths(piece: Piece, module: str, weight: Sequence[int]) -> str:
    factors = piece.factors
    have = piece.magnitude.shape if factors is None and piece.magnitude is not None else factors and factors.shape
    return f"{module} is {' x '.join(map(str, have or ()))} there and {' x '.join(map(str, weight))} in the model"


def weights_file(path: Path) -> Path:
    """The adapter's own file, for a folder that PEFT, LyCORIS or Side-Step saved; a file is itself."""
    if not path.is_dir():
        return path
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return path / name
    raise AdapterError(f"The folder {path} holds no adapter: none of {', '.join(FOLDER_FILES)}.")


def open_file(path: Path) -> Adapter:
    """The handle of an adapter file or folder of any layout; what a stranger's file holds is seen when it is read."""
    file = weights_file(path)
    return Adapter(path=file) if file.suffix.lower() in (*PICKLES, ".sft") and file.is_file() else open_adapter(file)


def read(path: Path, alpha: float = 0.0) -> Content:
    """An adapter file or folder.  `alpha`, unless 0, counts where nothing else says it; see `require_use`."""
    file = weights_file(path)
    tensors, metadata = _load(file)
    modules, unknown = _sorted_by_module(tensors)
    # Our own files say everything themselves, whatever lies beside them.
    scales = Scales(file.name, None if METADATA_KEY in metadata else read_settings(file, metadata), alpha)
    pieces = {}
    for module, keys in modules.items():
        parts = {part: tensors[key] for part, key in keys.items()}
        text = _module_text(next(iter(keys.values())))
        pieces[module] = build(module, text.removeprefix("base_model.model."), parts, scales,
                               made_for_host=text.startswith(HOST_PREFIX))
    return Content(file, pieces, tuple(unknown), metadata, scales.given_was_used)


def require_use(alpha: float, contents: Sequence[Content]) -> None:
    """AdapterError when an alpha was given and no file needs it: it would seem to do something."""
    if not (alpha >= 0 and math.isfinite(alpha)):
        raise AdapterError(f"alpha is {alpha:g}; it must be above 0, or 0 for what the file says.")
    if alpha > 0 and not any(content.asked_alpha for content in contents):
        raise AdapterError(f"{' and '.join(content.path.name for content in contents)} says its strength itself, so "
                           f"alpha {alpha:g} has no use. Set alpha to 0; strength makes the effect stronger or weaker.")


def added(path: Path) -> Added:
    """An `adapter.Loader` for files of any layout; AdapterError for what `read` refuses."""
    pieces = read(path).pieces

    def add(module: str, weight: Tensor) -> Tensor | None:
        return pieces[module].delta(weight) if module in pieces else None

    return add


def as_own_state(path: Path) -> dict[str, Tensor]:
    """A LoRA, LoKR or LoHA of any layout under the names that `LiveAdapter.state` has, to start a training from.

    AdapterError for kinds that no training continues: full changes, and DoRA by rows.
    """
    content = read(path)
    state: dict[str, Tensor] = {}
    for module, piece in content.pieces.items():
        state |= _own(content.path.name, module, piece)
    if not state:
        raise AdapterError(f"{content.path.name} has nothing for ACE-Step 1.5's decoder: {_some(content.unknown)}.")
    return state


def _own(name: str, module: str, piece: Piece) -> dict[str, Tensor]:
    factors, magnitude = piece.factors, piece.magnitude
    by_rows = magnitude is not None and magnitude.shape[0] != 1
    if factors is None or isinstance(factors, Full) or piece.bias is not None or by_rows:
        raise AdapterError(f"{name} cannot be trained further: {module} holds "
                           f"{'DoRA by rows' if by_rows else 'a full change'}. Start from a LoRA, LoKR or LoHA.")
    dora = {} if magnitude is None else {"dora_scale": magnitude}
    if isinstance(factors, LowRank):
        tensors = {"lora_A.weight": factors.down, "lora_B.weight": factors.up, "alpha": factors.host()["alpha"]}
        if not dora:
            return {f"base_model.model.{module}.{ending}": tensor.float() for ending, tensor in tensors.items()}
    flat = module.replace(".", "_")
    return {f"lycoris_{flat}.{ending}": tensor.float() for ending, tensor in (factors.host() | dora).items()}


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file; every tensor is of finite numbers."""
    if not path.is_file():
        raise AdapterError(f"There is no adapter file {path}. Choose one from the list, or train one.")
    if path.suffix.lower() in SAFETENSORS:
        try:
            tensors, metadata = storage.read_tensors(path), storage.read_metadata(path)
        except storage.BadTensorFile as error:
            raise AdapterError(f"{path.name} is damaged or not a safetensors file ({error}).") from error
    elif path.suffix.lower() in PICKLES:
        tensors, metadata = _load_pickle(path)
    else:
        raise AdapterError(f"{path.name} is not an adapter file: those end in {', '.join(SAFETENSORS + PICKLES)}.")
    for key, tensor in tensors.items():
        # An alpha may be a whole number; as a factor, whole numbers would be something quantised.
        number = tensor.is_floating_point() or tensor.numel() == 1
        if _KEY.fullmatch(key) and not (number and tensor.numel() and torch.isfinite(tensor.float()).all()):
            raise AdapterError(f"{path.name} is damaged: {key} ({tensor.dtype}, {tuple(tensor.shape)}) holds something "
                               "else than finite numbers. Take an earlier save of the training.")
    return tensors, metadata


def _load_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the outermost dictionary that has any, and the plain values around them."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 (torch raises whatever a stranger's file makes it stumble over)
        raise AdapterError(f"{path.name} could not be opened without running code from it ({type(error).__name__}). "
                           "Convert it to safetensors first.") from error
    metadata: dict[str, str] = {}
    levels, seen = [found], set()
    while levels:
        level = levels.pop(0)
        # A dictionary may hold itself.
        if not isinstance(level, Mapping) or id(level) in seen:
            continue
        seen.add(id(level))
        metadata |= {str(key): str(value) for key, value in level.items() if isinstance(value, (int, float, str))}
        tensors = {str(key): value for key, value in level.items() if isinstance(value, Tensor)}
        if any(_KEY.fullmatch(key) for key in tensors):
            return {key: tensor.detach() for key, tensor in tensors.items()}, metadata
        levels.extend(level.values())
    raise AdapterError(f"{path.name} holds no adapter.")


def _sorted_by_module(tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Module -> part -> key, and the keys that are neither.  AdapterError when two keys mean the same."""
    modules: dict[str, dict[str, str]] = {}
    unknown = []
    for key in tensors:
        match = _KEY.fullmatch(key)
        module = official(match["module"]) if match else None
        if match is None or module is None:
            unknown.append(key)
            continue
        part = _PARTS.get(match["part"], match["part"])
        if match["leaf"] == ".bias":
            part = "diff_b" if part == "diff" else f"{part}.bias"
        other = modules.setdefault(module, {}).setdefault(part, key)
        if other != key:
            raise AdapterError(f"The file holds {module} twice, as {other} and as {key}. It mixes two adapters.")
    return modules, unknown


def _module_text(key: str) -> str:
    match = _KEY.fullmatch(key)
    return match["module"] if match else key
