"""Strength of an adapter: alpha and rank, from the file, from the settings next to it, or from the user.

The effect of a low-rank adapter is (alpha / rank) * B @ A.  Files of PEFT hold A and B only; alpha stands in
adapter_config.json next to them.  A program that does not look there applies most of them at half strength.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import AdapterError, ConfigError
from ..io import strict_json
from ..io.patterns import matches
from .keys import official
from .peft_layout import CONFIG_NAME, HEADER_KEY

CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations of PEFT that also change the weights under the adapter; without those the file means nothing."""
OTHER_ARITHMETIC = {
    "kasa_config": "KaSA", "use_qalora": "QA-LoRA", "alora_invocation_tokens": "aLoRA", "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow", "monteclora_config": "MonteCLoRA", "layer_replication": "layer_replication",
}  # fmt: skip
"""Settings of PEFT's LoRA with which a file of the same names means something else."""
_SCALED = ("", "LORA", "LOKR", "LOHA")
"""PEFT's words for kinds whose modules have an alpha and a rank."""


@dataclass(frozen=True, kw_only=True)
class ModuleFacts:
    """Facts of one module of an adapter file, for checking that settings belong to that file."""

    name: str
    """PEFT's name of the module."""
    kind: str
    """LORA, LOKR or LOHA, or "" for what has no scale."""
    rank: int | None
    """None where both matrices of a LoKR are whole."""
    largest: int
    """Larger side of a whole matrix: PEFT keeps it whole where the rank is half of that or more."""
    by_peft: bool
    """True for names as PEFT writes them."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a whole adapter, found outside of its tensors."""

    source: str
    """File or key that holds them."""
    alpha: float
    """Finite; PEFT, LyCORIS and ComfyUI apply negative ones too."""
    rank: int
    """0 where they do not name one."""
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    rslora: bool = False
    kind: str = ""
    """PEFT's word for the kind; "" where they name none."""
    targets: Sequence[str] | str | None = None
    """Suffixes of module names, or one pattern for whole names."""
    refusal: str = ""
    """Reason why an adapter with these settings cannot be applied; "" where it can."""

    def mismatch(self, modules: Sequence[ModuleFacts]) -> str:
        """Reason why these settings are of another file than one with these modules; "" where they fit."""
        scaled = [module for module in modules if module.kind]
        for module in scaled:
            rank = self.rank_of(module.name)
            if not module.by_peft:
                return f"{module.name} is not named as PEFT does it"
            if self.kind and module.kind != self.kind:
                return f"it says {self.kind}, and {module.name} is a {module.kind}"
            if rank and (2 * rank < module.largest if module.rank is None else rank != module.rank):
                has = "whole matrices" if module.rank is None else f"rank {module.rank}"
                return f"it says rank {rank}, and {module.name} has {has}"
            if not self._targets(module.name):
                return f"{module.name} is not among its target_modules"
        for target in self.targets if scaled and isinstance(self.targets, Sequence) and not isinstance(
                self.targets, str) else ():
            if not any(_ends(module.name, target) for module in modules):
                return f"it says {target}, which the file does not have"
        return ""

    def _targets(self, name: str) -> bool:
        if not self.targets or self.targets == "all-linear":
            return True
        if isinstance(self.targets, str):
            return any(matches(self.targets, one) for one in (name, official(name) or name))
        return any(_ends(name, target) for target in self.targets)

    def alpha_of(self, name: str) -> float:
        return float(_matching(self.alpha_pattern, name, self.alpha))

    def rank_of(self, name: str) -> int:
        return int(_matching(self.rank_pattern, name, self.rank))

    def scale(self, name: str, rank: int) -> float:
        return self.alpha_of(name) / (math.sqrt(rank) if self.rslora else rank)


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}") or official(name) in {official(target), target}


def _matching(pattern: Mapping[str, float], name: str, default: float) -> float:
    """Value of the first pattern that matches the end of the name, as in PEFT, or another name of the module."""
    return next((value for key, value in pattern.items()
                 if matches(rf"(.*\.)?({key})", name) or official(key) == (official(name) or "")), default)


def settings_file(path: Path) -> Path | None:
    """Path of the adapter_config.json in the folder of an adapter file, of whichever adapter; None without one."""
    config = path.parent / CONFIG_NAME
    return config if config.is_file() else None


def read_settings(path: Path, metadata: Mapping[str, str],
                  modules: Sequence[ModuleFacts]) -> tuple[Settings | None, str]:
    """Return (settings of the file, reason why those in its folder are of another; "" where there is none).

    They come from the header that diffusers writes, from the folder's adapter_config.json if it can be of this file,
    or from other metadata.  AdapterError when that is damaged, or of a kind that cannot be applied.
    """
    try:
        header = _from_diffusers(path.name, metadata)
    except _DAMAGE as error:
        raise AdapterError(f"The metadata of {path.name} is damaged ({error}). Get the file again.") from error
    nearby, why = (None, "") if header is not None else _next_to(path, modules)
    try:
        found = header or nearby or _from_metadata(path.name, metadata)
    except _DAMAGE as error:
        raise AdapterError(f"The metadata of {path.name} is damaged ({error}). Get the file again.") from error
    if found is not None and found.refusal:
        raise AdapterError(found.refusal)
    return found, why


_DAMAGE = (OSError, ValueError, TypeError, AttributeError, RecursionError, ConfigError)


def _next_to(path: Path, modules: Sequence[ModuleFacts]) -> tuple[Settings | None, str]:
    config = settings_file(path)
    if config is None:
        return None, ""
    try:
        found = _peft(dict(strict_json.read(config)), CONFIG_NAME)
    except _DAMAGE as error:
        raise AdapterError(f"{config} is damaged ({error}). Get it again, or move it away.") from error
    why = "" if found is None else found.mismatch(modules)
    return (None, why) if why else (found, "")


def _from_diffusers(name: str, metadata: Mapping[str, str]) -> Settings | None:
    if HEADER_KEY not in metadata:
        return None
    values = strict_json.loads(metadata[HEADER_KEY], HEADER_KEY)
    return _peft({key.removeprefix("transformer."): value for key, value in values.items()}, name)


def _from_metadata(name: str, metadata: Mapping[str, str]) -> Settings | None:
    """Read the header as LyCORIS and kohya's trainers write it."""
    for key in ("lokr_config", "loha_config", "lora_config"):
        if key in metadata:
            return _named(strict_json.loads(metadata[key], key), name)
    return _named(metadata, name)


def _named(values: Mapping[str, Any], source: str) -> Settings | None:
    """Alpha and rank under any of their names; 0 and words, such as `Dynamic`, count as missing."""
    def first(*names: str) -> tuple[str, float]:
        stored = ((name, _number(name, values[name])) for name in names if name in values and _is_number(values[name]))
        return next(((name, number) for name, number in stored if number), ("", 0))

    _, alpha = first("ss_network_alpha", "lora_alpha", "network_alpha", "linear_alpha", "alpha")
    if not alpha:
        return None
    name, rank = first("ss_network_dim", "r", "rank", "network_dim", "linear_dim", "dim")
    return Settings(source=source, alpha=alpha, rank=_rank(name, rank) if name else 0)


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def _number(name: str, value: object) -> float:
    """Convert a setting to a number.  ConfigError, naming both, unless it is finite."""
    if not _is_number(value):
        raise ConfigError(f"could not convert {name} {strict_json.shown(value)} to a number")
    number = float(str(value))
    if not math.isfinite(number):
        raise ConfigError(f"{name} is {strict_json.shown(value)}, which is not a finite number")
    return number


def _rank(name: str, value: object) -> int:
    """Convert a setting to a rank.  ConfigError, naming the setting, unless it is a whole number above 0."""
    number = _number(name, value)
    if number < 1 or number != int(number):
        raise ConfigError(f"{name} is {strict_json.shown(value)}; a rank is a whole number above 0")
    return int(number)


def _peft(config: Mapping[str, Any], source: str) -> Settings | None:
    kind = str(config.get("peft_type") or "").upper()
    name = "lora_alpha" if "lora_alpha" in config else "alpha"
    if config.get(name) is None:
        return None
    if kind not in _SCALED:
        # Their ranks and patterns may have another form; modules with a scale are of another kind.
        return Settings(source=source, alpha=0, rank=0, kind=kind)
    ranks, alphas = (dict(config.get(name) or {}) for name in ("rank_pattern", "alpha_pattern"))
    targets = config.get("target_modules")
    for pattern in (*ranks, *alphas, *([targets] if isinstance(targets, str) else [])):
        matches(pattern, "")
    return Settings(source=source, alpha=_number(name, config[name]),
                    rank=0 if config.get("r") is None else _rank("r", config["r"]),
                    alpha_pattern={key: _number(f"the alpha of {key}", value) for key, value in alphas.items()},
                    rank_pattern={key: _rank(f"the rank of {key}", value) for key, value in ranks.items()},
                    rslora=bool(config.get("use_rslora")), kind=kind,
                    targets=targets if targets is None or isinstance(targets, str) else [str(one) for one in targets],
                    refusal=_refusal(config, source))


def _refusal(config: Mapping[str, Any], source: str) -> str:
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_THE_BASE):
        return (f"{source} says init_lora_weights={start}: this adapter belongs to changed base weights. Convert it to "
                "an ordinary LoRA with PEFT (path_initial_model_for_weight_conversion) first.")
    other = [name for key, name in OTHER_ARITHMETIC.items() if config.get(key)]
    if other:
        return f"{source} says {', '.join(other)}, a kind that is not read. Merge it into a model with PEFT instead."
    return ""


class Scales:
    """True scale of each module of one file, from the first source that has it: the file, its settings, the user."""

    def __init__(self, name: str, settings: Settings | None, given: float, mismatch: str = "") -> None:
        self._name = name
        self._settings = settings
        self._mismatch = mismatch
        self._given = given
        self.given_was_used = False

    def low_rank(self, module: str, alpha: float | None, rank: int, *, made_for_host: bool) -> float:
        """Scale of a module with a rank.  `alpha` is the file's own; AdapterError where no source has one."""
        settings = self._settings
        applies = settings is not None and settings.rank_of(module) in (0, rank)
        if settings is not None and applies and (
                alpha is None or (settings.rslora and math.isclose(alpha, settings.alpha_of(module), rel_tol=1e-3))):
            return settings.scale(module, rank)
        if alpha is not None:
            return alpha / rank
        if self._given > 0:
            self.given_was_used = True
            return self._given / rank
        if made_for_host:
            # ComfyUI's own names, and ComfyUI takes a missing alpha for scale 1.
            return 1.0
        raise AdapterError(self._question(module, rank))

    def whole(self, module: str, alpha: float | None) -> float:
        """Scale of a Kronecker product of two whole matrices, which has no rank: 1, unless the settings have the rank
        that divides alpha (PEFT always divides, LyCORIS only for rsLoRA)."""
        settings = self._settings
        if settings is None or not settings.rank_of(module):
            return 1.0
        rank = settings.rank_of(module)
        if alpha is not None:
            return alpha / rank
        return settings.scale(module, rank) if settings.source == CONFIG_NAME else 1.0

    def alpha_of(self, module: str) -> float:
        """Alpha of the settings or of the user; for messages."""
        return self._given if self._settings is None else self._settings.alpha_of(module)

    def _question(self, module: str, rank: int) -> str:
        settings = self._settings
        if self._mismatch:
            why = f"the {CONFIG_NAME} is of another adapter ({self._mismatch})"
        elif settings is not None:
            why = (f"{settings.source} is of another adapter (it says rank {settings.rank_of(module)}, and {module} "
                   f"has rank {rank})")
        else:
            why = f"there is no {CONFIG_NAME} in its folder"
        return (f"{self._name} does not say its alpha, without which its strength is unknown, and {why}. Put the "
                f"{CONFIG_NAME} of its training into the same folder, or apply the adapter with an alpha (often twice "
                f"the rank: {2 * rank} for this one).")
