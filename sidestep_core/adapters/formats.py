"""Adapter files of every layout in the wild, read into one form: official module names and the true scale of each.

LoRA, DoRA, LoKR, LoHA and full changes, by whichever names PEFT, LyCORIS, kohya, diffusers, DiffSynth, ai-toolkit and
ACE-Step's own trainers give them.  What cannot be read is named; what is damaged is an AdapterError.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..errors import AdapterError
from . import foreign_kinds, registry
from . import tensors as adapter_tensors
from .algorithm import Parts
from .alpha import ModuleFacts, Scales, Settings, read_settings
from .delta import ModuleDelta
from .file import METADATA_KEY, Adapter, open_adapter
from .keys import ONLY_THE_HOSTS, module_text, sorted_by_module
from .peft_layout import CONFIG_NAME
from .proof import DeltaFn
from .tensors import PICKLES

FOLDER_FILES = ("adapter_model.safetensors", "adapter_model.bin", "lokr_weights.safetensors",
                "loha_weights.safetensors", "pytorch_lora_weights.safetensors")  # fmt: skip
"""Names of the adapter file in a folder that is an adapter; the first that exists counts."""
HOST_PREFIX = "diffusion_model.decoder."
OF_A_BIAS = ("diff_b", "b_norm")
"""Endings of the delta of a bias."""
WIDTHS = {2048: "2B", 2560: "XL"}
SHOWN = 4

ShapeOf = Callable[[str], Sequence[int] | None]
"""Parameter of a decoder, such as `layers.0.self_attn.q_proj.weight` -> its shape; None for an unknown one."""


@dataclass(frozen=True)
class AdapterFile:
    """Parsed adapter file."""

    path: Path
    modules: Mapping[str, ModuleDelta]
    """Official module name -> delta."""
    host_only: Mapping[str, Mapping[str, Tensor]]
    """Module -> ending -> tensor, of kinds that only the host may compute."""
    outside_decoder: Mapping[str, Tensor]
    """Tensors outside of the decoder, under names that only the host may know."""
    unknown: tuple[str, ...]
    """Keys of no module of the decoder, or of unknown meaning."""
    metadata: Mapping[str, str]
    used_given_alpha: bool
    """True where the strength depends on the alpha that the user gave."""
    notice: str
    """Reason why the settings in the file's folder were not used; "" where there is none."""

    @property
    def total(self) -> int:
        """Modules in the file, known or not."""
        return len(self.modules) + len(self.host_only) + len({module_text(key) for key in self.unknown})

    def matched(self, shape_of: ShapeOf, *, alone: bool = True) -> dict[str, ModuleDelta]:
        """Deltas that fit a decoder; `shape_of` gives the shape of each of its parameters.

        AdapterError when nothing does, unless the host took something else of the file (not `alone`), and when anything
        is of another width: half an adapter sounds different.
        """
        weights = {module: shape_of(f"{module}.weight") for module in self.modules}
        known = {module: shape for module, shape in weights.items() if shape is not None}
        wrong = [module for module, shape in known.items()
                 if not self.modules[module].fits(shape, shape_of(f"{module}.bias"))]
        for module in wrong[:1]:
            widths = _widths(self.modules[module], module, known[module], shape_of(f"{module}.bias"))
            raise AdapterError(f"{self.path.name} is made for a model of another size{_sizes(self, known)}: {widths}. "
                               f"{len(known) - len(wrong)} of {self.total} modules matched, so nothing was applied. "
                               "Use it with the size of model that it was trained on.")
        if not known and alone and self.host_only:
            raise AdapterError(f"Nothing of {self.path.name} was applied: {self.kinds(self.host_only)}. 0 of "
                               f"{self.total} modules matched. Apply it with the program that it was made for.")
        if not known and alone:
            found = _some([*self.modules, *self.unknown]) or "no tensors"
            raise AdapterError(f"Nothing of {self.path.name} fits this model: 0 of {self.total} modules matched. It "
                               f"has {found}. Is it an adapter for ACE-Step 1.5, and is that the model?")
        fitting = {module: self.modules[module] if shape_of(f"{module}.bias") is not None
                   else replace(self.modules[module], bias=None) for module in known}
        return {module: delta for module, delta in fitting.items() if delta.factors or delta.bias is not None}

    def left_out(self, matched: Mapping[str, ModuleDelta], taken: Collection[str] = ()) -> str:
        """Name the modules, biases and keys of the file that are neither matched nor taken by the host; "" for none."""
        unread = [module for module in self.host_only if module not in taken]
        names = [*(module for module in self.modules if module not in matched),
                 *(f"{module}.bias" for module, delta in matched.items()
                   if delta.bias is not self.modules[module].bias),
                 *unread, *(f"{module}.bias" for module, parts in self.host_only.items() if module in taken
                            and parts.keys() & {*OF_A_BIAS} and f"{module}.bias" not in taken),
                 *(key for key in self.unknown if key not in taken)]
        why = f" ({self.kinds(unread)})" if unread else ""
        return f"{len(names)} not used: {_some(names)}{why}" if names else ""

    def kinds(self, modules: Iterable[str]) -> str:
        """Name the kinds of modules that only the host may know."""
        names = dict.fromkeys(foreign_kinds.name(self.host_only[module]) for module in modules)
        return f"of a kind that is not read: {_some(list(names))}"


def host_tensors(modules: Mapping[str, ModuleDelta]) -> dict[str, Tensor]:
    """Tensors of the adapter in the host's own format, without the magnitudes of DoRA."""
    # The host views some of them as vectors, which needs contiguous ones.
    return {f"{HOST_PREFIX}{module}.{ending}": tensor.contiguous()
            for module, delta in modules.items() for ending, tensor in delta.host().items()}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _sizes(content: AdapterFile, known: Mapping[str, Sequence[int]]) -> str:
    """Names of the two sizes, where both are known."""
    for module, shape in known.items():
        factors = content.modules[module].factors
        if module.endswith("q_proj") and factors is not None and {factors.shape[-1], shape[-1]} <= WIDTHS.keys():
            return f" ({WIDTHS[factors.shape[-1]]}, and this one is {WIDTHS[shape[-1]]})"
    return ""


def _widths(delta: ModuleDelta, module: str, weight: Sequence[int], bias: Sequence[int] | None) -> str:
    factors = delta.factors
    have = delta.magnitude.shape if factors is None and delta.magnitude is not None else factors and factors.shape
    name, there, here = module, have or (), weight
    if delta.bias is not None and bias is not None and delta.fits(weight, None):
        name, there, here = f"{module}.bias", delta.bias.shape, bias
    return f"{name} is {' x '.join(map(str, there))} there and {' x '.join(map(str, here))} in the model"


def weights_file(path: Path) -> Path:
    """Weights file in a folder that PEFT, LyCORIS or Side-Step saved; a file is its own."""
    if not path.is_dir():
        return path
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return path / name
    raise AdapterError(f"The folder {path} holds no adapter: none of {', '.join(FOLDER_FILES)}.")


def open_file(path: Path) -> Adapter:
    """Open an adapter file or folder of any layout as a handle; foreign content is checked when it is read."""
    file = weights_file(path)
    return Adapter(path=file) if file.suffix.lower() in (*PICKLES, ".sft") and file.is_file() else open_adapter(file)


def read(path: Path, alpha: float = 0.0) -> AdapterFile:
    """Read an adapter file or folder.  `alpha`, unless 0, counts where no other source has one; see `require_use`."""
    file = weights_file(path)
    tensors, metadata = adapter_tensors.read(file)
    modules, foreign, unknown = sorted_by_module(tensors)
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    settings, reason = _settings(file, metadata, modules, shapes)
    scales = Scales(file.name, settings, alpha, reason)
    deltas = {module: _parsed(module, {part: tensors[key] for part, key in keys.items()},
                              module_text(next(iter(keys.values()))), scales) for module, keys in modules.items()}
    host_only = {module: foreign_kinds.for_host({ending: tensors[key] for ending, key in keys.items()},
                                             made_for_host=next(iter(keys.values())).startswith(HOST_PREFIX))
              for module, keys in foreign.items()}
    outside = {key: tensors[key] for key in unknown if key.startswith(ONLY_THE_HOSTS)}
    foreign_kinds.require_strengths(
        outside | {key: tensors[key] for keys in foreign.values() for key in keys.values()})
    return AdapterFile(file, deltas, host_only, outside, tuple(unknown), metadata, scales.given_was_used,
                   _mismatch(file, reason))


def _parsed(module: str, parts: Parts, text: str, scales: Scales) -> ModuleDelta:
    """Delta of one module, which the file calls `text`."""
    name = _name(text)

    def scale(rank: int | None, alpha: float | None) -> float:
        if rank is None:
            return scales.whole(name, alpha)
        return scales.low_rank(name, alpha, rank, made_for_host=text.startswith(HOST_PREFIX))

    return registry.parse(module, parts, scale, lambda: scales.alpha_of(name))


def notices(path: Path) -> list[str]:
    """Notices about an adapter file before it meets a model; only its header is read.

    AdapterError for settings with which no adapter can be applied.
    """
    file = weights_file(path)
    shapes, metadata = adapter_tensors.read_shapes(file)
    modules, _, unknown = sorted_by_module(shapes)
    _, reason = _settings(file, metadata, modules, shapes)
    nobodys = [key for key in unknown if not key.startswith(ONLY_THE_HOSTS)]
    unread = (f"{len(nobodys)} of {len(shapes)} tensors of {file.name} are no part of an adapter for ACE-Step 1.5 and "
              f"are not used: {_some(nobodys)}." if nobodys else "")
    return [notice for notice in (_mismatch(file, reason), unread) if notice]


def _settings(file: Path, metadata: Mapping[str, str], modules: Mapping[str, Mapping[str, str]],
              shapes: adapter_tensors.Shapes) -> tuple[Settings | None, str]:
    """Call `read_settings`, but not for our own files, which hold everything themselves."""
    if METADATA_KEY in metadata and any(key.endswith(".alpha") for key in shapes):
        return None, ""
    return read_settings(file, metadata, [_facts(keys, shapes) for keys in modules.values()])


def _mismatch(file: Path, reason: str) -> str:
    return (f"The {CONFIG_NAME} in the folder of {file.name} is of another adapter: {reason}. It was not used."
            if reason else "")


def _name(text: str) -> str:
    return text.removeprefix("base_model.model.")


def _facts(keys: Mapping[str, str], shapes: adapter_tensors.Shapes) -> ModuleFacts:
    """Facts of one module that settings are compared with."""
    algorithm = next((one for one in registry.ALGORITHMS if one.parts & keys.keys()), None)
    ranked = algorithm.rank_part(keys) if algorithm else ""
    part = ranked or (algorithm.whole_part if algorithm and algorithm.whole_part in keys else "")
    shape = shapes[keys[part]] if part else ()
    text = module_text(next(iter(keys.values())))
    return ModuleFacts(name=_name(text), kind=algorithm.peft_type if algorithm and part else "",
                rank=shape[0] if ranked and shape else None, largest=max(shape[:2], default=0),
                by_peft="." in text and not text.startswith("diffusion_model.")
                and ".lora_down" not in keys.get(part, ""))


def require_use(alpha: float, contents: Sequence[AdapterFile]) -> None:
    """AdapterError where an alpha is given and no file needs it: it would seem to do something."""
    if not (alpha >= 0 and math.isfinite(alpha)):
        raise AdapterError(f"alpha is {alpha:g}; it must be above 0, or 0 for the file's own.")
    if alpha > 0 and not any(content.used_given_alpha for content in contents):
        raise AdapterError(f"{' and '.join(content.path.name for content in contents)} already has its own alpha, so "
                           f"alpha {alpha:g} has no use. Set alpha to 'from the file'; strength makes the effect "
                           "stronger or weaker.")


def delta_fn(path: Path) -> DeltaFn:
    """A `proof.Loader` for files of any layout; AdapterError for those that `read` refuses."""
    modules = read(path).modules

    def delta(module: str, weight: Tensor) -> Tensor | None:
        return modules[module].delta(weight) if module in modules else None

    return delta


def as_own_state(path: Path) -> dict[str, Tensor]:
    """Convert a LoRA, LoKR or LoHA of any layout to the names of `LiveAdapter.state_dict`, to start a training from.

    AdapterError for kinds that no training continues: full changes, and DoRA by rows.
    """
    content = read(path)
    if content.host_only:
        raise AdapterError(f"{content.path.name} cannot be trained further: it is {content.kinds(content.host_only)}. "
                           "Start from a LoRA, LoKR or LoHA.")
    if content.outside_decoder:
        raise AdapterError(f"{content.path.name} cannot be trained further: it also changes parts outside the decoder "
                           f"({len(content.outside_decoder)} tensors: {_some(list(content.outside_decoder))}). "
                           "Merge the adapter into a model, and train on that.")
    state: dict[str, Tensor] = {}
    for module, delta in content.modules.items():
        state |= _own(content.path.name, module, delta)
    if not state:
        raise AdapterError(f"{content.path.name} has nothing for ACE-Step 1.5's decoder: {_some(content.unknown)}.")
    return state


def _own(name: str, module: str, delta: ModuleDelta) -> dict[str, Tensor]:
    magnitude = delta.magnitude
    by_rows = magnitude is not None and magnitude.shape[0] != 1
    state = delta.factors.own_state(module, {} if magnitude is None else {"dora_scale": magnitude}) if (
        delta.factors) else {}
    if not state or delta.bias is not None or by_rows:
        raise AdapterError(f"{name} cannot be trained further: {module} holds "
                           f"{'DoRA by rows' if by_rows else 'a full change'}. Start from a LoRA, LoKR or LoHA.")
    return state
